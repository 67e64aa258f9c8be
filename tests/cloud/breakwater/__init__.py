"""Tests of Breakwater with real keys, real databases and OpenSSL."""
