"""The issuer walk: Breakwater is killed at each of its fault points, on each database, alone and beside a replica."""
