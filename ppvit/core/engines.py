"""Where tasks go, through joblib's backends: processes of this machine, a cluster of Dask, a cluster of Ray."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from joblib import Parallel, delayed, effective_n_jobs, parallel_config, register_parallel_backend

from ppvit.core.children import end_with_parent
from ppvit.core.errors import PpvitError, UsageError
from ppvit.core.stopping import unheard_by_children
from ppvit.core.workers import requested_workers

_CONNECT_SECONDS = 30

Calls = Sequence[Callable[[], Any]]


class Backend:
    """Processes that call functions.

    Attributes:
        processes: how many there are, or may be used.
        at_once: calls that are best begun together.
        killed: errors by which it says that a process was killed.
    """

    killed: tuple[type[Exception], ...] = ()

    def __init__(self, processes: int, **chosen: Any) -> None:
        self.processes = self.at_once = processes
        self._chosen = chosen
        # why they were cancelled is said by the error that did it
        warnings.filterwarnings("ignore", r"\d+ tasks (which were still|have been)", UserWarning)

    def begin(self, calls: Calls) -> Iterator[Any]:
        """Start the calls, all of them; yields their values in order."""
        with unheard_by_children():
            found: Iterator[Any] = self._parallel("generator")(delayed(call)() for call in calls)
        return found

    def _parallel(self, return_as: str) -> Parallel:
        with parallel_config(**self._chosen):
            # arrays go through pipes, not through files
            return Parallel(self.processes, return_as=return_as, batch_size=1, pre_dispatch="all", max_nbytes=None)

    def close(self, failed: bool) -> None:
        """End what was started; where something has failed nobody waits for what is under way."""


class Here(Backend):
    """joblib's processes on this machine."""

    def __init__(self, processes: int) -> None:
        from joblib.externals.loky.process_executor import BrokenProcessPool

        self.killed = (BrokenProcessPool,)
        # they would wait for five minutes for one that was killed
        super().__init__(processes, backend="loky", initializer=end_with_parent, initargs=(os.getpid(),))

    def close(self, failed: bool) -> None:
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor(reuse=True).shutdown(kill_workers=failed)


class Dask(Backend):
    """A cluster of Dask, which itself repeats what a killed worker was at."""

    def __init__(self, _: int) -> None:
        address = _address("dask", "tcp://HOST:8786, or the scheduler's file")
        try:
            from distributed import Client
            from distributed.scheduler import KilledWorker
        except ImportError:
            raise PpvitError("PPVIT_ENGINE=dask needs Dask; pip install 'ppvit[dask]'") from None
        self.killed = (KilledWorker,)
        warnings.filterwarnings("ignore", "Sending large graph", UserWarning)  # images are as large as they are
        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what matters is raised
        where = {"scheduler_file": address} if os.path.isfile(address) else {"address": address}
        try:
            self._client = Client(**where, set_as_default=False, timeout=_CONNECT_SECONDS)
        except (OSError, ValueError) as error:
            raise _no_answer("dask", address, error) from None
        from joblib._dask import DaskDistributedBackend

        class NeverHere(DaskDistributedBackend):  # type: ignore[misc]  # joblib has no types
            def effective_n_jobs(self, n_jobs: int) -> int:
                # with one worker, which can be all that is left for a moment, joblib would do the work in this process
                return max(2, int(super().effective_n_jobs(n_jobs)))

        register_parallel_backend("dask of ppvit", NeverHere)
        chosen = {"backend": "dask of ppvit", "client": self._client, "wait_for_workers_timeout": _CONNECT_SECONDS}
        super().__init__(_most(chosen, address), **chosen)

    def close(self, failed: bool) -> None:
        self._client.close()


class Ray(Backend):
    """A cluster of Ray; its processes are started once and again after one was killed."""

    def __init__(self, _: int) -> None:
        address = _address("ray", "HOST:6379")
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # it would tell its makers
        try:
            import ray
            from ray.util.joblib import register_ray
        except ImportError:
            raise PpvitError("PPVIT_ENGINE=ray needs Ray; pip install 'ppvit[ray]'") from None
        self.killed = (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError)
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
        except (OSError, ValueError, RuntimeError) as error:
            raise _no_answer("ray", address, error) from None
        self._shutdown = ray.shutdown
        self._pool: Any = None
        register_ray()
        super().__init__(_most({"backend": "ray"}, address), backend="ray")
        self.at_once = 4 * self.processes  # whose values all come together, so that some wait at the end

    def begin(self, calls: Calls) -> Iterator[Any]:
        if self._pool is None:
            self._pool = self._parallel("list").__enter__()
        return self._finish(calls)

    def _finish(self, calls: Calls) -> Iterator[Any]:
        try:
            yield from self._pool(delayed(call)() for call in calls)
        except self.killed:
            self._end_pool()
            raise

    def _end_pool(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.__exit__(None, None, None)

    def close(self, failed: bool) -> None:
        self._end_pool()
        self._shutdown()


def _address(engine: str, example: str) -> str:
    if not (address := os.environ.get("PPVIT_ENGINE_ADDRESS", "")):
        raise UsageError(f"PPVIT_ENGINE={engine} needs PPVIT_ENGINE_ADDRESS, such as {example}")
    return address


def _no_answer(engine: str, address: str, error: Exception) -> PpvitError:
    why = " ".join(str(error).split())[:200] or type(error).__name__
    return PpvitError(f"no cluster of {engine} answers at PPVIT_ENGINE_ADDRESS={address} ({why}); start it")


def _most(chosen: dict[str, Any], address: str) -> int:
    """Tasks at a time."""
    try:
        with parallel_config(**chosen):
            found = int(effective_n_jobs(-1))
    except TimeoutError:
        raise PpvitError(f"the cluster at {address} has no worker; start some, or wait until they are there") from None
    return min(found, requested_workers() or found)
