"""`cloud.http.app`: handlers take the parts of their service by name."""

from litestar import Litestar, get

from cloud.http.app import Wired, make_app
from cloud.http.guard import ANONYMOUS, Guard
from cloud.process.serve import Listener
from tests.cloud.world import World, connected, listening, port_of, unit_of


class Greeter:
    def __init__(self, word: str) -> None:
        self.word = word


@get("/greeting", opt={"peers": (ANONYMOUS,)})
async def greeting(greeter: Wired[Greeter]) -> dict[str, str]:
    return {"greeting": greeter.word}


def guard() -> Guard:
    world = World()
    return Guard(trust=lambda: world.trust, checks=world, now=world.now)


async def asked(app: Litestar, path: str) -> bytes:
    listener = unit_of(Listener(app, "127.0.0.1", 0, None))
    async with listening(listener) as servers, connected(port_of(servers[0]), None) as client:
        return (await client.ask(path)).body


async def test_two_applications_of_one_process_have_parts_of_their_own() -> None:
    apps = [make_app((greeting,), guard(), services={"greeter": Greeter(word)}) for word in ("one", "two")]
    for app, word in zip(apps, ("one", "two"), strict=True):
        assert await asked(app, "/greeting") == f'{{"greeting":"{word}"}}'.encode()


async def test_a_part_is_never_taken_from_the_request() -> None:
    app = make_app((greeting,), guard(), services={"greeter": Greeter("mine")})
    assert await asked(app, "/greeting?greeter=theirs") == b'{"greeting":"mine"}'
