"""Breakwater, the issuer: the CAs, their certificates and the generations of nodes they may be issued for."""
