"""The units of the host, as far as their text says it all; what they do is for the virtual machines."""

from __future__ import annotations

from hostctl.data import data_folder

HOST = data_folder("units") / "host"


def test_whatever_debians_packet_filter_does_ours_is_set_again_and_the_pass_does_not_end_with_it() -> None:
    beside = (HOST / "nftables.service.d/10-hostctl.conf").read_text().splitlines()
    again = "-/usr/bin/systemctl --no-block restart hostctl-network.service"
    assert {f"{when}={again}" for when in ("ExecStartPost", "ExecReload", "ExecStopPost")} <= {*beside}
    own = (HOST / "hostctl-network.service").read_text().splitlines()
    assert [line for line in own if "nftables" in line and not line.startswith("#")] == ["After=nftables.service"]
