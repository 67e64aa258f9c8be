"""Tests of the issuer, on real keys, a real database file and OpenSSL."""
