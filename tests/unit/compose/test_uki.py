from __future__ import annotations

import pytest
from hostctl_qemu.loader import parse_os_release

from hostctl.compose.uki import recovery_os_release


@pytest.mark.parametrize("line", ['IMAGE_ID="edge"', "IMAGE_ID=edge"])
def test_the_recovery_has_an_image_id_that_sorts_behind_that_of_the_release(line: str) -> None:
    text = f'NAME="Debian"\n{line}\nIMAGE_VERSION="1"\n'
    found = parse_os_release(recovery_os_release(text).encode())
    assert found == {"NAME": "Debian", "IMAGE_ID": "edge~recovery", "IMAGE_VERSION": "1"}
    assert found["IMAGE_ID"] > "edge"
