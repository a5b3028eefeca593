# SPDX-License-Identifier: Apache-2.0
"""Give the rights that the guide gives, by the commands that stand there.

`kafka-acls.sh` is not among the jars that run a broker, so its command lines are read here and
sent as it would send them.
"""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import CreateAclsRequest

GUIDE = Path(__file__).parents[2] / "docs/how-to/encrypt-and-authenticate.md"
# org.apache.kafka.common.acl and .resource
_OPERATIONS = {"Read": 3, "Write": 4}
_RESOURCES = {"--topic": 2, "--group": 3}
_LITERAL = 3
_ALLOW = 3


@dataclass(frozen=True, slots=True)
class Right:
    principal: str
    operation: str
    resource: str  # as the flag that names it
    name: str


def rights() -> Iterator[Right]:
    """What the guide allows whom."""
    text = GUIDE.read_text().replace("\\\n", " ")
    for line in text.splitlines():
        if not line.startswith("kafka-acls.sh"):
            continue
        words = shlex.split(line)
        given = list(pairwise(words))
        (principal,) = (value for flag, value in given if flag == "--allow-principal")
        (operation,) = (value for flag, value in given if flag == "--operation")
        for flag, value in given:
            if flag in _RESOURCES:
                yield Right(principal, operation, flag, value)


async def give(bootstrap: str, *, principals: dict[str, str]) -> None:
    """Give everybody his rights; *principals* says who else stands for one of the guide's."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        for right in rights():
            for principal in {right.principal, principals.get(right.principal, right.principal)}:
                answer = await admin._send_to_controller(
                    CreateAclsRequest(
                        resource_type=_RESOURCES[right.resource],
                        resource_name=right.name,
                        resource_pattern_type_filter=_LITERAL,
                        principal=principal,
                        host="*",
                        operation=_OPERATIONS[right.operation],
                        permission_type=_ALLOW,
                    )
                )
                assert [one[0] for one in answer.creation_responses] == [0]
    finally:
        await admin.close()
