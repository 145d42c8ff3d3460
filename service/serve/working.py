"""Background work in a process of its own, without HTTP."""

from __future__ import annotations

import asyncio
import signal
from contextlib import closing

from service.aggregator import Aggregator
from service.limits import Limits
from service.logs import configure
from service.monitor.monitoring import Watching
from service.serve.listeners import Listeners
from service.settings import Settings
from service.work.roles import need_shared

__all__ = ["run"]


def run(settings: Settings) -> None:
    """Work until a signal says otherwise, and then to the end of the parts that are being made.

    Raises:
        ConfigError: the stores cannot be used, or are for one process.
    """
    configure(settings.log_level)
    need_shared(settings, "`he-agg work` needs")
    settings = settings.model_copy(update={"work": True, "operator_port": None, "made_sum_bytes": 0})
    watching = Watching(settings, "work")
    with closing(Listeners(settings)) as listeners, closing(Aggregator.open(settings)) as aggregator:
        watching.attach(aggregator, Limits(settings))
        asyncio.run(_work(aggregator, watching, listeners))
        watching.close()


async def _work(aggregator: Aggregator, watching: Watching, listeners: Listeners) -> None:
    asked = asyncio.Event()
    for one in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(one, asked.set)
    await aggregator.worker.start()
    print("\n".join(["working", *listeners.start(aggregator, watching)]), flush=True)
    await asked.wait()
    await listeners.stop()
    await aggregator.worker.stop()
