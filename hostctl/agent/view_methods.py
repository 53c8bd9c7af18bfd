"""The agent's methods that only look, each with the JSON document that the verb's ``--json`` prints.

Verbs look for themselves, without the agent; these are for programs that speak D-Bus alone. What is not here is the
journal's: output of workloads and events are read there, because an agent that ends when idle follows nothing.
What a method needs beyond what the agent has loaded anyway is imported by it: start-up counts.
"""

from __future__ import annotations

import json
import threading
from dataclasses import asdict

from hostctl.agent import generation, limits, network_view, overview
from hostctl.agent.bus import Call, Method
from hostctl.agent.machine import Machine, workload_unit
from hostctl.errors import UsageError
from hostctl.image import lookup
from hostctl.image.store import ImageStore
from hostctl.layout import HostLayout
from hostctl.workload.instance import name_of

STATS_SECONDS = 1.0
_PAUSE = threading.Event()  # never set: waiting for it is the time between two samples


def names(text: str) -> list[str]:
    """Return the names in a JSON list.

    Raises:
        UsageError: it is none.
    """
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise UsageError("a list of names is needed", hint="as JSON, and [] for all")
    return found


class ViewService:
    """Looks at the machine below a layout."""

    def __init__(self, layout: HostLayout, machine: Machine) -> None:
        self._layout = layout
        self._machine = machine

    def _store(self) -> ImageStore:
        return ImageStore(self._layout.images, self._layout.baked_images)

    def images(self, call: Call) -> str:
        """Return all images, once a name: an object with images, a list of reference, digest, id, bytes, created."""
        del call
        from hostctl.image import details  # noqa: PLC0415 - only for images, start-up counts

        store = self._store()
        return json.dumps({"images": details.listed(store, store.list())})

    def image(self, call: Call) -> str:
        """Return everything known of an image, by a name or id."""
        from hostctl.image import details  # noqa: PLC0415 - as above

        store = self._store()
        return json.dumps(details.described(store, lookup.find(store, call.arguments[0])))

    def history(self, call: Call) -> str:
        """Return the steps that an image was made by, the last first: created, created_by, comment, size."""
        from hostctl.image import details  # noqa: PLC0415 - as above

        store = self._store()
        steps = details.details(store, lookup.find(store, call.arguments[0])).history[::-1]
        return json.dumps([asdict(step) for step in steps])

    def verify(self, call: Call) -> str:
        """Read images whole: a JSON list of names and ids, empty for all. Returns a list of digest and problems."""
        from hostctl.image import details  # noqa: PLC0415 - as above

        store = self._store()
        wanted = [lookup.find(store, name) for name in names(call.arguments[0])] or list(store.list())
        wrong = {
            image.digest: details.damage(store, image) for image in {each.digest: each for each in wanted}.values()
        }
        return json.dumps([{"digest": digest, "problems": list(found)} for digest, found in wrong.items()])

    def networks(self, call: Call) -> str:
        """Return all networks, and who is on them with which addresses."""
        del call
        return json.dumps([asdict(each) for each in network_view.read(generation.current(self._layout))])

    def network(self, call: Call) -> str:
        """Return one network, with Docker's keys beside ours."""
        found = network_view.read(generation.current(self._layout))
        return json.dumps(network_view.docker(network_view.named(found, call.arguments[0])))

    def stats(self, call: Call) -> str:
        """Return what running workloads use, measured over a second: a JSON list of names, empty for all."""
        from hostctl.agent import usage  # noqa: PLC0415 - only for this method

        wanted = names(call.arguments[0])
        before = usage.sample(usage.running(self._layout, self._machine, wanted))
        _PAUSE.wait(STATS_SECONDS)
        after = usage.sample(usage.running(self._layout, self._machine, wanted))
        rows = usage.figures(before, after, usage.host_memory(self._layout.root))
        return json.dumps([asdict(row) for row in rows])

    def top(self, call: Call) -> str:
        """Return the processes of a workload, with their command lines."""
        from hostctl.agent import processes  # noqa: PLC0415 - only for this method

        found = processes.of_workload(call.arguments[0], self._layout, self._machine)
        return json.dumps([asdict(one) for one in found])

    def ports(self, call: Call) -> str:
        """Return which ports of the host lead into a workload: places by the workload's port, as in 80/tcp."""
        from hostctl.agent.inspection import port_bindings  # noqa: PLC0415 - only for this method

        name = call.arguments[0]
        stored = overview.require(name, self._layout)
        return json.dumps(port_bindings(overview.published(stored).get(name_of(name), ())))

    def limits(self, call: Call) -> str:
        """Return the limits of a workload that hold now, and whether they are other than declared."""
        name = call.arguments[0]
        unit = workload_unit(overview.require(name, self._layout).record.key(name))
        return json.dumps(asdict(limits.read(unit, self._layout.root)))

    def info(self, call: Call) -> str:
        """Return this host in numbers: workloads, images, volumes, processors, memory, versions."""
        del call
        from hostctl.agent import facts  # noqa: PLC0415 - only for two methods

        return json.dumps(asdict(facts.info(self._layout, self._machine)))

    def version(self, call: Call) -> str:
        """Return the versions of hostctl and of what it runs on."""
        del call
        from hostctl.agent import facts  # noqa: PLC0415 - as above

        return json.dumps(asdict(facts.versions(self._layout)))

    def methods(self) -> tuple[Method, ...]:
        """Return this part of the interface."""
        name, image, several = ("name",), ("image",), ("names",)
        return (
            Method(name="ListImages", handler=self.images, root_only=True),
            Method(name="InspectImage", handler=self.image, strings=1, root_only=True, takes=image),
            Method(name="ImageHistory", handler=self.history, strings=1, root_only=True, takes=image),
            Method(name="VerifyImages", handler=self.verify, strings=1, root_only=True, takes=several),
            Method(name="ListNetworks", handler=self.networks, root_only=True),
            Method(name="InspectNetwork", handler=self.network, strings=1, root_only=True, takes=name),
            Method(name="Stats", handler=self.stats, strings=1, root_only=True, takes=several),
            Method(name="Top", handler=self.top, strings=1, root_only=True, takes=name),
            Method(name="Ports", handler=self.ports, strings=1, root_only=True, takes=name),
            Method(name="GetLimits", handler=self.limits, strings=1, root_only=True, takes=name),
            Method(name="Info", handler=self.info, brief=True),
            Method(name="Version", handler=self.version, brief=True),
        )
