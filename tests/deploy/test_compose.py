# SPDX-License-Identifier: Apache-2.0
"""The Compose file is one that Compose accepts, and says what the services understand."""

import re
import subprocess
import xml.etree.ElementTree as ET
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

from agent.cache import FOLDER
from agent.config import Config as AgentConfig
from consumer.config import Config as ConsumerConfig
from service.options import ENVIRONMENT_PREFIX, build, environment_name

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "deploy/compose/compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
CONFIGS = {"agent": AgentConfig, "consumer": ConsumerConfig}


def environment_of(service: str) -> dict[str, str]:
    """What the container gets when the user sets nothing."""
    return {
        name: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)
        for name, value in SERVICES[service]["environment"].items()
    }


def seconds(duration: str) -> float:
    number, unit = re.fullmatch(r"(\d+)([sm])", duration).groups()
    return int(number) * {"s": 1, "m": 60}[unit]


def test_the_file_follows_the_compose_specification():
    # Compose merges `<<` itself; this reader wants it done.
    merged = yaml.safe_dump(COMPOSE)

    assert PyCompose.from_yaml(merged).service_names() == sorted(SERVICES)


def test_the_checker_would_notice_a_misspelt_key():
    with pytest.raises(ValueError, match="cap_ad"):
        PyCompose.from_yaml("services: {agent: {image: x, cap_ad: [BPF]}}")


@pytest.mark.parametrize("service", CONFIGS)
def test_every_variable_of_ours_is_an_option(service):
    known = {environment_name(field.name) for field in fields(CONFIGS[service])}

    given = {name for name in environment_of(service) if name.startswith(ENVIRONMENT_PREFIX)}

    assert given
    assert given <= known


@pytest.mark.parametrize("service", CONFIGS)
def test_the_service_accepts_its_environment(service, tmp_path):
    environ = environment_of(service)
    for name in [name for name in environ if name.endswith("_FILE")]:
        (tmp_path / name).write_text("a password")
        environ[name] = str(tmp_path / name)

    config = build(CONFIGS[service], table=service, flags={}, environ=environ, file=None)

    assert config.kafka


@pytest.mark.parametrize("service", CONFIGS)
def test_a_service_has_the_time_that_it_takes_to_stop(service):
    stop_timeout = CONFIGS[service]().stop_timeout

    assert seconds(SERVICES[service]["stop_grace_period"]) > stop_timeout


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_has_a_version(service):
    assert re.search(r":\d+\.\d+(\.\d+)?$", SERVICES[service]["image"])


@pytest.mark.parametrize("service", CONFIGS)
def test_our_image_is_built_from_its_own_recipe_in_the_whole_tree(service):
    recipe = SERVICES[service]["build"]

    context = (ROOT / "deploy/compose" / recipe["context"]).resolve()

    assert context == ROOT
    assert (context / recipe["dockerfile"]).name == f"{service}.Dockerfile"
    assert (context / recipe["dockerfile"]).is_file()


def test_the_broker_is_the_one_that_is_embedded():
    project = ET.parse(ROOT / "deploy/kafka/pom.xml").getroot()  # noqa: S314  # our own file
    (version,) = (
        dependency.findtext("version")
        for dependency in project.iter("dependency")
        if dependency.findtext("groupId") == "org.apache.kafka"
    )

    assert SERVICES["kafka"]["image"] == f"apache/kafka:{version}"


def test_the_database_is_the_engine_that_is_embedded():
    locked = (ROOT / "requirements.lock").read_text()

    version = re.search(r"^chdb-core==(\d+\.\d+)", locked, re.MULTILINE)[1]

    assert SERVICES["clickhouse"]["image"] == f"clickhouse/clickhouse-server:{version}"


@pytest.mark.parametrize("service", CONFIGS)
def test_our_containers_cannot_write_and_cannot_rise(service):
    container = SERVICES[service]

    assert container["read_only"] is True
    assert container["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in container["security_opt"]


def test_the_agent_finds_what_it_has_compiled_before():
    volumes = [one for one in SERVICES["agent"]["volumes"] if one["type"] == "volume"]
    (kept,) = (one for one in volumes if one["target"] == str(FOLDER))

    assert kept["source"] in COMPOSE["volumes"]


@pytest.mark.parametrize("service", SERVICES)
def test_what_a_container_takes_is_bounded(service):
    assert {"mem_limit", "pids_limit", "logging", "healthcheck", "restart"} <= set(
        SERVICES[service]
    )


@pytest.mark.parametrize("service", SERVICES)
def test_nothing_is_published_beyond_this_machine(service):
    ports = SERVICES[service].get("ports", [])

    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_no_password_stands_in_the_file():
    text = (ROOT / "deploy/compose/compose.yaml").read_text()

    assert not re.search(r"PASSWORD: ", text)


def test_a_secret_would_not_be_committed():
    (secret,) = COMPOSE["secrets"].values()
    path = (ROOT / "deploy/compose" / secret["file"]).resolve()

    ignored = subprocess.run(["git", "check-ignore", "--quiet", path], cwd=ROOT, check=False)

    assert ignored.returncode == 0
