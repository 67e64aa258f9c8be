"""`cloud.storage.location`: addresses of databases, which never contain a password."""

from pathlib import Path

import pytest

from cloud.storage import Location, PostgresLocation
from cloud.storage.location import parse_location


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://u:secret@h/n",
        "postgresql://u@h/n?sslmode=disable",
        "postgresql://u@h/",
        "postgresql://h/n",
        "postgresql://u@/n",
        "postgresql://u@h/n?pool=0",
        "postgresql://u@h/n?pool",
        "postgresql://u@h:port/n",
    ],
)
def test_an_address_that_is_none_or_shows_a_password(text: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse_location(text)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "location",
    [
        PostgresLocation(host="db.example", name="fabric", user="fabric"),
        PostgresLocation(
            host="/run/post gres",
            port=5433,
            name="a/b?c",
            user="ü@x",
            password_file="/etc/p&w",
            tls_ca_file="/c",
            pool=3,
            needs_fsync=False,
        ),
        PostgresLocation(host="2001:db8::1", name="fabric", user="fabric"),
        Path("/var/lib/x.sqlite"),
    ],
)
def test_an_address_comes_back_as_it_went(location: Location) -> None:
    assert parse_location(str(location)) == location


def test_an_address_is_shown_as_an_operator_writes_it() -> None:
    written = "postgresql://cascade@db.example:5432/fabric?tls_ca_file=/etc/ca.pem"
    assert str(parse_location(written)) == written
