"""The agent's methods that act on running workloads: on all replicas of one, or on the one that is named, as in NAME.2.

What they leave in the journal is what ``hostctl events`` shows. Each is a thin call; who may call is decided before, by
:mod:`hostctl.agent.bus`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

from hostctl.agent import event_log, health, limits, overview, parsed, pausing, requiring, restarting, unit_control
from hostctl.agent.bus import Call, Method
from hostctl.agent.machine import Machine, Verb, starter_units, workload_unit
from hostctl.agent.overview import NotRunningError
from hostctl.agent.pausing import FREEZER, Freezer
from hostctl.agent.requiring import Requirer
from hostctl.config.names import Name
from hostctl.config.workload import Workload
from hostctl.errors import EXIT_USAGE, HostctlError
from hostctl.layout import HostLayout
from hostctl.workload.instance import name_of

MAX_STOP_SECONDS = 3600.0


class TimeLimitError(HostctlError):
    """A time is none that can be waited."""

    id = "time-invalid"
    exit_code = EXIT_USAGE


class WorkloadControl:
    """Starts, stops, signals and freezes the workloads of the machine below a layout."""

    def __init__(
        self,
        layout: HostLayout,
        machine: Machine,
        wait: Callable[..., health.Report] = health.wait,
        freezer: Freezer = FREEZER,
    ) -> None:
        self._layout = layout
        self._machine = machine
        self._wait = wait
        self._freezer = freezer

    def _called(self, call: Call) -> str:
        """Return the full name of the workload that a call names first."""
        return overview.called(call.arguments[0], self._layout)

    def _keys(self, name: str) -> tuple[str, ...]:
        """Return what the units of a workload that is declared are called by."""
        return overview.require(name, self._layout).record.named(name)

    def _workload(self, name: str) -> Workload:
        """Return what is declared of a workload."""
        stored = overview.require(name, self._layout)
        known = parsed.declaration(stored).workloads
        return known[Name(name_of(name))]

    def _declared(self, name: str) -> list[str]:
        """Return the units of a workload that is declared."""
        return [workload_unit(key) for key in self._keys(name)]

    def _up(self, name: str) -> list[str]:
        """Return what the units that are up are called by; of replicas at least one must be."""
        units = {key: workload_unit(key) for key in self._keys(name)}
        states = self._machine.states(list(units.values()))
        up = [key for key, unit in units.items() if unit in states and states[unit].is_active and states[unit].main_pid]
        if not up:
            raise NotRunningError(f"workload {name} is not running", hint=f"hostctl start {name}")
        return up

    def start(self, call: Call) -> str:
        """Start a workload, what it requires, and what starts it in its own time; then who was stopped with it.

        The end of a job is not waited for; one that was completed is run again.
        """
        name = self._called(call)
        units, starters = self._declared(name), list(self._machine.states(starter_units(name)))
        needed = requiring.units(overview.require(name, self._layout), name_of(name))
        if self._workload(name).type != "job":
            self._machine.units("start", [*starters, *needed, *units])
            self._start_again(name_of(name), call.notify)
            return _done(name, "start")
        if starters:
            self._machine.units("start", starters)
        if needed:
            self._machine.units("start", needed, block=False)
        states = self._machine.states(units)
        completed = any(state.is_active and not state.main_pid for state in states.values())
        self._machine.units("restart" if completed else "start", units, block=False)
        return json.dumps({"workload": name, "done": "start", "waits": False})

    def _start_again(self, name: str, notify: Callable[[str], None]) -> None:
        """Start who requires a workload, or one that was started with it, and was stopped for no other reason.

        One that somebody has started meanwhile past the agent is being tried, and fails: it is started anew, because a
        start joins the try that is under way, which began before what it requires was there.
        """
        again = requiring.recall(self._layout, overview.require(name, self._layout), name)
        for each, units in again.items():
            notify(f"starting workload {each}, which was stopped with it")
            tried = [unit for unit, state in self._machine.states(units).items() if state.is_up and not state.is_active]
            self._machine.units("restart", tried)
            self._machine.units("start", [unit for unit in units if unit not in tried])
        requiring.forget(self._layout, [name, *again])

    def _end_one(self, verb: Verb, unit: str, limit: float | None) -> None:
        if limit is None:
            self._machine.units(verb, [unit])
        else:
            unit_control.stop_within(verb, unit, limit)

    def _restart_one(self, key: str, limit: float | None) -> None:
        self._end_one("restart", workload_unit(key), limit)

    def _end_all(self, verb: Verb, units: Sequence[str], limit: float | None) -> None:
        """Stop or restart the units of one workload, all at once."""
        pausing.thaw(self._machine.states(units))
        if limit is None:
            self._machine.units(verb, units)
            return
        with ThreadPoolExecutor(max_workers=max(1, len(units))) as pool:
            for ended in [pool.submit(self._end_one, verb, unit, limit) for unit in units]:
                ended.result()

    def _end(self, requirers: Sequence[Requirer], limit: float | None) -> None:
        """Stop who requires a workload, with what would start it again.

        systemd does that as well, but frozen they would not end, and they would take the seconds that it has itself.
        """
        for each in requirers:
            self._machine.units("stop", each.starters)
            self._end_all("stop", each.services, limit)

    def stop(self, call: Call) -> str:
        """Stop a workload until the next start or boot; what is not down after the seconds, if given, is killed.

        Its schedule or sockets are stopped too, and before it who requires it.
        """
        name, within = self._called(call), call.arguments[1]
        units = self._declared(name)
        limit = None if within == "" else seconds(within)
        self._machine.units("stop", list(self._machine.states(starter_units(name))))
        requirers = requiring.up(overview.require(name, self._layout), self._machine, [name_of(name)])
        requiring.remember(self._layout, name_of(name), requirers)
        for each in requirers:
            call.notify(f"stopping workload {each.name}, which requires {', '.join(each.of)}")
        self._end(requirers, limit)
        self._end_all("stop", units, limit)
        return _done(name, "stop")

    def restart(self, call: Call) -> str:
        """Restart a workload; what is not down after the seconds, if given, is killed.

        Replicas are restarted one after the other, each when the one before is healthy, so that the others serve
        meanwhile. The first that does not become so is the last that is restarted. Who requires it is restarted too,
        and then all replicas at once.
        """
        name, within = self._called(call), call.arguments[1]
        stored = overview.require(name, self._layout)
        keys = stored.record.named(name)
        limit = None if within == "" else seconds(within)
        others = requiring.up(stored, self._machine, [name_of(name)])
        units = [workload_unit(key) for key in keys]
        with self._without(others, name, limit):
            if others:
                self._end_all("restart", units, limit)
            else:
                pausing.thaw(self._machine.states(units))
                one = partial(self._restart_one, limit=limit)
                restarting.in_order(keys, one, stored, self._machine, notify=call.notify, wait=self._wait)
        return _done(name, "restart")

    @contextmanager
    def _without(self, others: Sequence[Requirer], name: str, limit: float | None) -> Iterator[None]:
        """Keep others stopped until the block ends, if each has so many seconds; else that is left to systemd.

        Either way they are up again afterwards.
        """
        for each in others:
            pausing.thaw(self._machine.states(each.services))
            self._machine.units("reset-failed", each.services)  # a restart that is asked for counts for nobody
        if limit is None or not others:
            yield
            # systemd waits for nobody's restart but the one that it was asked for; theirs is under way.
            self._machine.units("start", [unit for each in others for unit in each.services])
            return
        units = [unit for each in others for unit in (*each.starters, *each.services)]
        with pausing.stopped(f"workload.{name}", units, self._layout, self._machine, lambda: self._end(others, limit)):
            yield

    def kill(self, call: Call) -> str:
        """Send a signal, by name or number, to the first process of a workload, whose init passes it on.

        A paused one runs on first: killed as it is, it would be down and frozen, and systemd could not start it again.
        """
        name, text = self._called(call), call.arguments[1]
        signal = unit_control.signal_name(text)
        for key in self._up(name):
            pausing.wake(key, self._layout, self._machine, self._freezer)
            unit_control.kill(workload_unit(key), signal)
        event_log.write("kill", name, signal=signal)
        return _done(name, "kill")

    def pause(self, call: Call) -> str:
        """Let nothing of a workload run until it is unpaused; it is not checked meanwhile."""
        name = self._called(call)
        for key in self._up(name):
            pausing.hold(key, self._layout, self._machine, self._freezer)
        event_log.write("pause", name)
        return _done(name, "pause")

    def unpause(self, call: Call) -> str:
        """Let a paused workload run on."""
        name = self._called(call)
        for key in self._up(name):
            pausing.release(key, self._layout, self._machine, self._freezer)
        event_log.write("unpause", name)
        return _done(name, "unpause")

    def set_limits(self, call: Call) -> str:
        """Change limits of a workload until it is declared anew: an object with memory, cpus, pids, as in host.yaml."""
        name, text = self._called(call), call.arguments[1]
        units = self._declared(name)
        try:
            wanted = {str(key): str(value) for key, value in json.loads(text).items()}
        except (ValueError, AttributeError) as error:
            raise limits.LimitError("the limits are no object", details=repr(error)) from error
        for unit in units:
            limits.change(unit, limits.settings(wanted))
        event_log.write("limit", name, **wanted)
        return _done(name, "limit")

    def reset_limits(self, call: Call) -> str:
        """Let the declared limits of a workload hold again."""
        name = self._called(call)
        limits.reset(self._declared(name), self._workload(name), self._layout.root)
        return _done(name, "reset")

    def methods(self) -> tuple[Method, ...]:
        """Return this part of the interface."""
        return (
            Method(name="Start", handler=self.start, strings=1, root_only=True, takes=("name",)),
            Method(name="Stop", handler=self.stop, strings=2, root_only=True, takes=("name", "seconds")),
            Method(name="Restart", handler=self.restart, strings=2, root_only=True, takes=("name", "seconds")),
            Method(name="Kill", handler=self.kill, strings=2, root_only=True, takes=("name", "signal")),
            Method(name="Pause", handler=self.pause, strings=1, root_only=True, takes=("name",)),
            Method(name="SetLimits", handler=self.set_limits, strings=2, root_only=True, takes=("name", "limits")),
            Method(name="ResetLimits", handler=self.reset_limits, strings=1, root_only=True, takes=("name",)),
            Method(name="Unpause", handler=self.unpause, strings=1, root_only=True, takes=("name",)),
        )


def _done(name: str, verb: str) -> str:
    return json.dumps({"workload": name, "done": verb})


def seconds(text: str) -> float:
    """Return a time to wait, from 0 to an hour.

    Raises:
        TimeLimitError: it is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= MAX_STOP_SECONDS:
        raise TimeLimitError(f"{text!r} is no time from 0 to {MAX_STOP_SECONDS:.0f} seconds")
    return value
