"""The commands of `cascade pki`; they run on the issuer's host."""
