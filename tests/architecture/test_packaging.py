"""What is installed, what stands where, and that every module is either core or edge."""

import importlib.metadata
import importlib.resources
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any, Final

import grimp
import jsonschema
import pytest
import yaml

from streams.cli import main
from streams.settings import load_settings

ROOT: Final = Path(__file__).parents[2]
PACKAGES: Final = ("rules", "notifiers", "streams")
IMPORT_NAMES: Final = (*PACKAGES, "runbooks")

# The modules that may do I/O, read a clock or use a framework. All others are core, and listed in pyproject.toml.
EDGE: Final = frozenset(
    {
        "notifiers.bounded_answer",
        "notifiers.console",
        "notifiers.delivery",
        "notifiers.receivers",
        "notifiers.runbook_files",
        "notifiers.slack",
        "rules.document",
        "rules.files",
        "rules.loader",
        "rules.schema",
        "rules.source",
        "streams.broker",
        "streams.broker_command",
        "streams.call_files",
        "streams.cli",
        "streams.collector",
        "streams.continuity",
        "streams.demo",
        "streams.durations",
        "streams.export",
        "streams.following",
        "streams.fetching",
        "streams.health_server",
        "streams.heartbeat",
        "streams.kafka",
        "streams.kafka_refusals",
        "streams.kafka_security",
        "streams.lease",
        "streams.live_table",
        "streams.logs",
        "streams.loop",
        "streams.measure",
        "streams.notify_stage",
        "streams.price_file",
        "streams.progress",
        "streams.publish",
        "streams.replay",
        "streams.rules_command",
        "streams.rules_topic",
        "streams.rules_watch",
        "streams.settings",
        "streams.setup",
        "streams.signals",
        "streams.stage_run",
        "streams.stages",
        "streams.topic_ids",
        "streams.topics",
        "streams.traffic",
        "streams.watchdog",
        "streams.watching",
        "streams.worker",
        "streams.worker_process",
    }
)

# The parts of the Compose file format that this project's file uses. Unknown keys fail.
COMPOSE_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["services"],
    "additionalProperties": False,
    "properties": {
        "services": {"type": "object", "additionalProperties": {"$ref": "#/$defs/service"}},
        "volumes": {"type": "object", "additionalProperties": {"type": ["object", "null"]}},
    },
    "$defs": {
        "strings": {"type": "array", "items": {"type": "string"}},
        "environment": {
            "oneOf": [
                {"type": "object", "additionalProperties": {"type": "string"}},
                {"$ref": "#/$defs/strings"},
            ]
        },
        "duration": {"type": "string", "pattern": "^[0-9]+(ms|s|m)$"},
        "service": {
            "type": "object",
            "required": ["image"],
            "additionalProperties": False,
            "properties": {
                "build": {"type": "string"},
                "image": {"type": "string", "pattern": "^[a-z0-9/.-]+:[A-Za-z0-9_.-]+$"},
                "command": {"$ref": "#/$defs/strings"},
                "environment": {"$ref": "#/$defs/environment"},
                "ports": {"$ref": "#/$defs/strings"},
                "volumes": {"$ref": "#/$defs/strings"},
                "tmpfs": {"$ref": "#/$defs/strings"},
                "user": {"type": "string"},
                "init": {"type": "boolean"},
                "read_only": {"type": "boolean"},
                "cap_drop": {"$ref": "#/$defs/strings"},
                "security_opt": {"$ref": "#/$defs/strings"},
                "restart": {"enum": ["no", "unless-stopped"]},
                "stop_grace_period": {"$ref": "#/$defs/duration"},
                "depends_on": {
                    "type": "object",
                    "additionalProperties": {
                        "type": "object",
                        "required": ["condition"],
                        "additionalProperties": False,
                        "properties": {
                            "condition": {"enum": ["service_healthy", "service_completed_successfully"]}
                        },
                    },
                },
                "healthcheck": {
                    "type": "object",
                    "required": ["test"],
                    "additionalProperties": False,
                    "properties": {
                        "test": {"$ref": "#/$defs/strings"},
                        "interval": {"$ref": "#/$defs/duration"},
                        "timeout": {"$ref": "#/$defs/duration"},
                        "start_period": {"$ref": "#/$defs/duration"},
                        "retries": {"type": "integer"},
                    },
                },
            },
        },
    },
}


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def core_modules() -> list[str]:
    contracts = pyproject()["tool"]["importlinter"]["contracts"]
    [core] = [contract for contract in contracts if contract["id"] == "core"]
    modules: list[str] = core["source_modules"]
    return modules


def modules_on_disk() -> set[str]:
    """Every module but the packages' own `__init__`."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py"
    }


def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    return document


def test_every_module_is_listed_as_core_or_as_edge() -> None:
    unlisted = sorted(modules_on_disk() - set(core_modules()) - EDGE)
    assert not unlisted, "list these in the contract `core` of pyproject.toml, or in EDGE of this file"


def test_no_module_is_listed_as_core_and_as_edge() -> None:
    assert not EDGE & set(core_modules())


def test_the_core_list_is_sorted_and_names_only_modules_that_exist() -> None:
    listed = core_modules()
    assert listed == sorted(set(listed), key=lambda name: (PACKAGES.index(name.split(".")[0]), name))
    assert set(listed) <= modules_on_disk()


def test_the_core_imports_nothing_from_the_edge() -> None:
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    core = set(core_modules())
    outside = {
        f"{module} -> {imported}"
        for module in core
        for imported in graph.find_modules_directly_imported_by(module)
        if imported not in core and imported not in PACKAGES
    }
    assert not outside


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_holds_only_its_docstring(package: str) -> None:
    text = (ROOT / package / "__init__.py").read_text(encoding="utf-8")
    assert re.fullmatch(r'"""[^"]+"""\n', text)


@pytest.mark.parametrize(
    "name",
    [
        "pyproject.toml",
        "docker-compose.yml",
        "Dockerfile",
        "LICENSE",
        "README.md",
        "streams/__init__.py",
        "rules/__init__.py",
        "notifiers/__init__.py",
        "runbooks",
        "tests",
    ],
)
def test_what_is_promised_at_the_top_level_is_there(name: str) -> None:
    assert (ROOT / name).exists()


def test_runbooks_are_markdown_and_never_a_python_package() -> None:
    assert not list((ROOT / "runbooks").rglob("*.py"))


def test_no_package_under_tests_shadows_a_package_of_the_project() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_no_other_installed_distribution_owns_the_import_names() -> None:
    owners = importlib.metadata.packages_distributions()
    others = {name: set(owners.get(name, [])) - {"tocsin"} for name in IMPORT_NAMES}
    assert others == {name: set() for name in IMPORT_NAMES}


def test_runbooks_are_found_as_package_data() -> None:
    folder = importlib.resources.files("runbooks")
    found = {entry.name for entry in folder.iterdir() if entry.name.endswith(".md")}
    assert found == {path.name for path in (ROOT / "runbooks").glob("*.md")}


def test_the_wheel_holds_every_module_rule_library_and_runbook(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    result = subprocess.run(build, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    [wheel] = tmp_path.glob("tocsin-*.whl")
    shipped = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    sources = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    library = [*(ROOT / "rules/library").rglob("*.yaml"), *(ROOT / "runbooks").rglob("*.md")]
    assert {path.relative_to(ROOT).as_posix() for path in (*sources, *library)} <= shipped
    assert {name.split("/")[0] for name in shipped} <= set(IMPORT_NAMES)


def test_the_project_cannot_be_uploaded_to_an_index() -> None:
    assert "Private :: Do Not Upload" in pyproject()["project"]["classifiers"]


def test_the_wheel_is_built_of_the_four_top_level_packages() -> None:
    assert set(pyproject()["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) == set(IMPORT_NAMES)


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_the_lock_pins_every_library_with_hashes_and_names_no_index(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    entries = [block for block in re.split(r"^(?=[a-zA-Z])", text, flags=re.MULTILINE) if block.strip()]
    assert entries
    for entry in entries:
        assert re.match(r"[a-z0-9-]+==\S+", entry), entry
        assert "--hash=sha256:" in entry, entry
    assert "://" not in text
    assert not re.search(r"--(index-url|extra-index-url|find-links|trusted-host)", text)


def test_both_locks_agree_on_what_they_share() -> None:
    pins = [
        set(
            re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / name).read_text(encoding="utf-8"), flags=re.MULTILINE)
        )
        for name in ("requirements.lock", "requirements-dev.lock")
    ]
    shared = {name for name, _ in pins[0]} & {name for name, _ in pins[1]}
    assert {pin for pin in pins[0] if pin[0] in shared} == {pin for pin in pins[1] if pin[0] in shared}


def test_every_dependency_of_the_project_is_pinned_in_the_lock() -> None:
    pinned = set(
        re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements.lock").read_text("utf-8"), re.MULTILINE)
    )
    names = {re.split(r"[\[<>=]", line)[0].lower() for line in pyproject()["project"]["dependencies"]}
    assert names <= pinned


def test_the_compose_file_is_well_formed() -> None:
    jsonschema.validate(compose(), COMPOSE_SCHEMA)


def test_compose_services_wait_only_for_services_that_can_become_ready() -> None:
    services = compose()["services"]
    for service in services.values():
        for name, wait in service.get("depends_on", {}).items():
            if wait["condition"] == "service_healthy":
                assert "healthcheck" in services[name]
            else:
                assert services[name]["restart"] == "no"


def test_compose_builds_tocsin_from_the_dockerfile_and_mounts_a_configuration_that_exists() -> None:
    services = compose()["services"]
    for name in ("topics", "tocsin"):
        service = services[name]
        assert (ROOT / service["build"] / "Dockerfile").is_file()
        [mount] = service["volumes"]
        source, target, mode = mount.split(":")
        assert mode == "ro"
        config = Path(service["command"][service["command"].index("--config") + 1])
        assert (ROOT / source / config.relative_to(target)).is_file()


def test_compose_configuration_reaches_the_kafka_service_and_finds_its_rules() -> None:
    config = yaml.safe_load((ROOT / "deploy/tocsin.yaml").read_text(encoding="utf-8"))
    listeners = compose()["services"]["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    for broker in config["kafka"]["brokers"]:
        assert f"://{broker}" in listeners
    for pattern in config["rules"]:
        assert list((ROOT / "deploy").glob(pattern))


def test_compose_asks_the_worker_itself_whether_it_is_well() -> None:
    service = compose()["services"]["tocsin"]
    config = service["command"][service["command"].index("--config") + 1]
    test = service["healthcheck"]["test"]
    assert test == ["CMD", "tocsin", "health", "--config", config]
    assert main.commands[test[2]] is not None
    assert load_settings(ROOT / "deploy" / Path(config).name).web.address is not None


def test_the_compose_file_holds_no_secret() -> None:
    environment = compose()["services"]["tocsin"]["environment"]
    assert environment == ["SLACK_BOT_TOKEN", "SLACK_WEBHOOK_URL", "HEARTBEAT_URL"]
    assert not re.search(r"xox[a-z]-|hooks\.slack\.com", json.dumps(compose()))


def test_the_containers_do_not_run_as_root() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("USER ")][-1] == "USER tocsin"


def test_the_image_installs_the_locked_libraries_with_hashes() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert "--require-hashes --only-binary :all: -r requirements.lock" in text


def test_the_tests_and_the_compose_file_use_the_same_apache_kafka() -> None:
    pom = (ROOT / "tests/kafka/pom.xml").read_text(encoding="utf-8")
    [version] = re.findall(r"<artifactId>kafka_2\.13</artifactId>\s*<version>([^<]+)</version>", pom)
    assert compose()["services"]["kafka"]["image"] == f"apache/kafka:{version}"
