"""`tools.packages.signing`: what GnuPG lists. The drill `packages` makes and checks signatures."""

from tools.packages import signing

LISTING = """tru::1:1796000000:0:3:1:5
sec:u:3072:1:1559FE4BC9CC6527:1795990000:::u:::scESC:::+:::23::0:
fpr:::::::::0123456789ABCDEF0123456789ABCDEF01234567:
grp:::::::::AAAA:
uid:u::::1795990000::BBBB::Cascade::::::::::0:
ssb:u:3072:1:FFFFFFFFFFFFFFFF:1795990000::::::e:::+:::23:
fpr:::::::::FEDCBA9876543210FEDCBA9876543210FEDCBA98:
"""


def test_a_listing_gives_time_and_fingerprint_of_the_primary_key() -> None:
    assert signing.created(LISTING) == 1_795_990_000
    assert signing.fingerprints(LISTING) == ["0123456789ABCDEF0123456789ABCDEF01234567"]
    assert signing.fingerprints("") == []
