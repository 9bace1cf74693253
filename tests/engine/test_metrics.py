"""The names that dashboards, alerts and the fake engine take for vLLM's are vLLM's."""

import re

import aiohttp

from tests import fake_metrics
from tests.engine.conftest import System


async def test_the_engine_exposes_what_the_dashboards_ask_for(system: System) -> None:
    socket = next(argument for argument in system.engine().cmdline() if argument.endswith(".sock"))
    connector = aiohttp.UnixConnector(socket)
    async with aiohttp.ClientSession(connector=connector) as session, session.get("http://engine/metrics") as reply:
        exposed = await reply.text()
    series = re.compile(r"^(vllm:\w+)\{([^}]*)\}", re.M)
    real = {name: set(re.findall(r"(\w+)=", labels)) for name, labels in series.findall(exposed)}
    for name, labels in series.findall(fake_metrics.render(1).decode()):
        assert set(re.findall(r"(\w+)=", labels)) <= real.get(name, set()), name
    assert 'reason="deferred"' in exposed
