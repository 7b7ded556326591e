# SPDX-License-Identifier: Apache-2.0
"""What the controller judges of policies before a host is touched."""

from __future__ import annotations

import pytest
from tests.loading import load

policies = load("plugins/plugin_utils/_policies.py")

POLICY = """
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: web}
spec:
  nodeSelector: {matchLabels: {app: web}}
  ingress:
  - fromEntities: [cluster]
"""


@pytest.mark.parametrize("files", [{}, {"web.yaml": ""}, {"web.yaml": POLICY, "db.yaml": "# later\n"}])
def test_what_would_open_by_accident_is_refused(files: dict[str, str]) -> None:
    """A folder of another branch, or a file that was cut short."""
    with pytest.raises(policies.PolicyFilesError, match="no policy"):
        policies.checked(files, {}, b"", whole=True)


def test_nothing_may_be_added() -> None:
    assert policies.checked({}, {}, b"") == {}
    assert policies.checked({"web.yaml": POLICY}, {}, b"", whole=True) == {"web.yaml": POLICY}
