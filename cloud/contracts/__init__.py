"""Contracts of the APIs between services, over mutual TLS: one module for each service."""
