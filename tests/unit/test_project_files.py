"""The files around the code: manual, Makefile, container files, continuous integration. Checked as far as no engine is needed."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from gateway import manual
from gateway.commands import parser
from gateway.config import SETTINGS, load
from gateway.value import parse_address, parse_duration

ROOT: Final = Path(__file__).resolve().parents[2]
INSTRUCTIONS: Final = frozenset(
    [
        "FROM",
        "RUN",
        "COPY",
        "ENV",
        "USER",
        "WORKDIR",
        "VOLUME",
        "EXPOSE",
        "STOPSIGNAL",
        "HEALTHCHECK",
        "ENTRYPOINT",
        "CMD",
        "LABEL",
        "ARG",
    ]
)


def read(name: str) -> str:
    return (ROOT / name).read_text()


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, continued lines joined, comments gone."""
    lines = [line for line in read("docker/Dockerfile").splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found = []
    for line in filter(None, joined.splitlines()):
        word, _, rest = line.partition(" ")
        found.append((word, rest.strip()))
    return found


def of(word: str) -> list[str]:
    return [rest for found, rest in instructions() if found == word]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(read("compose.yaml"))
    return document


# the manual


def test_operations_tables_are_those_of_the_rows() -> None:
    text = read("docs/OPERATIONS.md")
    assert text == manual.renewed(text), "run `make docs`"


def test_operations_names_every_command() -> None:
    commands = next(action for action in parser()._actions if action.metavar == "COMMAND").choices
    assert commands is not None
    for name in commands:
        assert f"recall {name}" in read("docs/OPERATIONS.md"), name


def test_operations_example_is_a_settings_file_that_loads(tmp_path: Path) -> None:
    match = re.search(r"```toml\n(.*?)```", read("docs/OPERATIONS.md"), re.DOTALL)
    assert match
    (tmp_path / "recall.toml").write_text(match[1])
    secrets = {"RECALL_BACKING_ACCESS_KEY": "key", "RECALL_BACKING_SECRET_KEY": "secret"}
    settings = load(secrets, file=str(tmp_path / "recall.toml"))
    assert settings.pools["scratch"].demote == "never"
    assert len(settings.key_rules) == 2


def test_manual_refuses_a_text_without_its_blocks() -> None:
    with pytest.raises(ValueError, match="one block settings"):
        manual.renewed("nothing")


# the Dockerfile


def test_dockerfile_has_known_instructions_only() -> None:
    assert {word for word, _ in instructions()} <= INSTRUCTIONS
    assert instructions()[0][0] == "FROM"


def test_dockerfile_copies_what_exists() -> None:
    stages = {rest.split(" AS ")[1] for rest in of("FROM") if " AS " in rest}
    for rest in of("COPY"):
        words = rest.split()
        if words[0].startswith("--from="):
            assert words[0].removeprefix("--from=") in stages
            continue
        for source in words[:-1]:
            assert (ROOT / source).exists(), source


def test_dockerfile_copies_every_package_and_what_pyproject_reads() -> None:
    copied = {word for rest in of("COPY") for word in rest.split()[:-1]}
    project = tomllib.loads(read("pyproject.toml"))
    packages = {name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert packages | {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]} <= copied


def test_dockerignore_lets_through_what_is_copied() -> None:
    allowed = {line[1:] for line in read("docker/Dockerfile.dockerignore").splitlines() if line.startswith("!")}
    assert allowed == {word for rest in of("COPY") if "--from" not in rest for word in rest.split()[:-1]}


def test_dockerfile_python_is_one_the_project_supports() -> None:
    supported = tomllib.loads(read("pyproject.toml"))["project"]["requires-python"]
    least = tuple(int(number) for number in re.findall(r"\d+", supported))
    for rest in of("FROM"):
        match = re.match(r"python:(\d+)\.(\d+)-slim", rest)
        assert match
        assert (int(match[1]), int(match[2])) >= least


def test_dockerfile_runs_as_another_user_than_root_with_a_volume_of_its_own() -> None:
    (user,) = of("USER")
    assert user.split(":")[0] not in ("root", "0")
    assert of("VOLUME") == ["/data"]
    assert any("install -d -o recall" in rest and "/data" in rest for rest in of("RUN"))


def test_dockerfile_settings_load_and_agree_with_its_ports() -> None:
    pairs = dict(word.split("=", 1) for rest in of("ENV") for word in shlex.split(rest))
    settings = load({name: text for name, text in pairs.items() if name.startswith("RECALL_")})
    assert settings.data_dir == of("VOLUME")[0]
    assert str(settings.listen.port) == of("EXPOSE")[0]
    assert settings.listen.port == SETTINGS["listen"].default.port
    assert settings.listen.host == "0.0.0.0"


def test_dockerfile_commands_are_ours() -> None:
    entry, default = ast.literal_eval(of("ENTRYPOINT")[0]), ast.literal_eval(of("CMD")[0])
    assert entry == ["recall"]
    assert parser().parse_args(default)
    assert "recall" in tomllib.loads(read("pyproject.toml"))["project"]["scripts"]
    probe = ast.literal_eval(of("HEALTHCHECK")[0].partition("CMD ")[2])
    assert probe[0] == "recall"  # which knows the port, and whether it speaks TLS
    assert parser().parse_args(probe[1:])


# compose


def test_compose_names_only_what_it_has(compose: dict[str, Any]) -> None:
    services, volumes = compose["services"], set(compose["volumes"])
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)
        for mount in service.get("volumes", []):
            assert mount.split(":")[0] in volumes
    build = services["gateway"]["build"]
    assert (ROOT / build["context"] / build["dockerfile"]).is_file()


def test_compose_waits_for_a_healthy_backing(compose: dict[str, Any]) -> None:
    assert compose["services"]["gateway"]["depends_on"]["backing"]["condition"] == "service_healthy"
    assert compose["services"]["backing"]["healthcheck"]["test"]
    assert of("HEALTHCHECK")  # the gateway's own comes with its image


def interpolated(text: str, given: dict[str, str]) -> str:
    """`${NAME:-default}` as Compose reads it."""
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda match: given.get(match[1]) or match[2], text)


def test_compose_settings_load_and_reach_the_backing(compose: dict[str, Any]) -> None:
    gateway, backing = compose["services"]["gateway"], compose["services"]["backing"]
    environ = {name: interpolated(str(text), {}) for name, text in gateway["environment"].items()}
    settings = load(environ)
    assert "endpoint=http://backing:9000" in settings.backing
    assert "create=true" in settings.backing
    theirs = {name: interpolated(text, {}) for name, text in backing["environment"].items()}
    assert environ["RECALL_BACKING_ACCESS_KEY"] == theirs["MINIO_ROOT_USER"]
    assert environ["RECALL_BACKING_SECRET_KEY"] == theirs["MINIO_ROOT_PASSWORD"]


def test_compose_publishes_the_gateway_alone_and_on_the_loopback(compose: dict[str, Any]) -> None:
    port = SETTINGS["listen"].default.port
    assert compose["services"]["gateway"]["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert "ports" not in compose["services"]["backing"]


def test_compose_gives_the_gateway_no_more_than_it_needs(compose: dict[str, Any]) -> None:
    gateway = compose["services"]["gateway"]
    assert gateway["read_only"] is True and gateway["cap_drop"] == ["ALL"]
    assert gateway["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in gateway and "cap_add" not in gateway and "user" not in gateway


def test_compose_gives_the_drain_its_time(compose: dict[str, Any]) -> None:
    grace_s = parse_duration(compose["services"]["gateway"]["stop_grace_period"])
    assert grace_s > 2 * SETTINGS["drain_s"].default


# the Makefile


def make(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    bare = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    return subprocess.run(
        ["make", *arguments], cwd=cwd, env=bare, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The Makefile and its like alone, with an environment whose pip and tools only note that they were called.

    In a folder whose name has a space: make knows no such thing, but shells do.
    """
    folder = tmp_path / "my clone"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, folder / name)
    for name in ("gateway", "s3api", "tiering"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").touch()
    tools = folder / ".venv" / "bin"
    tools.mkdir(parents=True)
    for name in ("python", "recall", "pytest", "ruff", "mypy"):
        (tools / name).write_text(f'#!/bin/sh\necho "{name} $*" >> calls\n')
        (tools / name).chmod(0o755)
    return folder


def calls(clone: Path) -> list[str]:
    path = clone / "calls"
    found = [line.rstrip() for line in path.read_text().splitlines()] if path.exists() else []
    path.unlink(missing_ok=True)
    return found


def test_make_serve_installs_the_runtime_alone_and_once(clone: Path) -> None:
    assert make("serve", "ARGS=--workers 2", cwd=clone).returncode == 0
    installed, compiler, compiled, served = calls(clone)
    assert installed.endswith("-e .")
    assert compiler.endswith("-e .[compile]")
    assert compiled.startswith("python setup.py --quiet build")
    assert served == "recall serve --workers 2"
    assert make("serve", cwd=clone).returncode == 0
    assert calls(clone) == ["recall serve"]


def test_make_serve_compiles_again_when_a_source_changes(clone: Path) -> None:
    assert make("serve", cwd=clone).returncode == 0
    calls(clone)
    os.utime(clone / "tiering" / "__init__.py", ((clone / ".venv/compiled/.tried").stat().st_mtime + 10,) * 2)
    assert make("serve", "COMPILE=no", cwd=clone).returncode == 0
    assert calls(clone) == ["recall serve"]
    assert make("serve", cwd=clone).returncode == 0
    assert calls(clone)[1].startswith("python setup.py")


def test_make_serve_serves_from_the_sources_where_nothing_compiles(clone: Path) -> None:
    python = clone / ".venv" / "bin" / "python"
    python.write_text(python.read_text() + 'test "$1" != setup.py || { echo no headers; exit 1; }\n')
    done = make("serve", cwd=clone)
    assert done.returncode == 0
    assert "not compiled, serving from the sources" in done.stdout
    assert "no headers" in (clone / ".venv" / "compile.log").read_text()
    assert calls(clone)[-1] == "recall serve"
    assert "setup.py" not in make("serve", cwd=clone).stdout


def test_make_test_installs_the_extras_once_and_serve_needs_nothing_more(clone: Path) -> None:
    assert make("test", "ARGS=-x", cwd=clone).returncode == 0
    installed, tested = calls(clone)
    assert installed.endswith("-e .[test,lint]")
    assert tested.startswith("pytest -n 2 ") and tested.endswith(" -m not rgw -x")
    assert make("lint", cwd=clone).returncode == 0
    assert [call.split()[0] for call in calls(clone)] == ["ruff", "ruff", "mypy"]
    assert make("serve", "COMPILE=no", cwd=clone).returncode == 0
    assert calls(clone) == ["recall serve"]


def test_make_installs_again_when_the_dependencies_change(clone: Path) -> None:
    assert make("serve", cwd=clone).returncode == 0
    calls(clone)
    stamp = clone / ".venv" / ".installed-run"
    os.utime(clone / "pyproject.toml", (stamp.stat().st_mtime + 10,) * 2)
    assert make("serve", cwd=clone).returncode == 0
    assert calls(clone)[0].endswith("-e .")


def test_make_test_rgw_says_what_it_needs(clone: Path) -> None:
    done = make("test-rgw", cwd=clone)
    assert done.returncode != 0
    assert "RECALL_TEST_S3_ENDPOINT" in done.stderr


def test_make_refuses_an_old_python_by_name(clone: Path) -> None:
    shutil.rmtree(clone / ".venv")
    old = clone / "old-python"
    # What the check runs is real; only the version it sees is another.
    old.write_text(
        f'#!/bin/sh\nexec {sys.executable} -c "import sys; sys.version_info = (3, 9); exec(sys.argv[1])" "$2"\n'
    )
    old.chmod(0o755)
    done = make("serve", f"PYTHON='{old}'", cwd=clone)
    assert done.returncode != 0
    assert "Recall needs Python 3.11" in done.stderr
    assert not (clone / ".venv").exists()


def test_make_clean_keeps_data(clone: Path) -> None:
    (clone / "data").mkdir()
    for name in ("gateway", "s3api", "tiering", "clients", "tests", "bench"):
        (clone / name / "__pycache__").mkdir(parents=True)
    assert make("clean", cwd=clone).returncode == 0
    assert (clone / "data").is_dir()
    assert not (clone / ".venv").exists()
    assert not list(clone.rglob("__pycache__"))


def test_every_make_target_is_explained() -> None:
    phony = re.search(r"^\.PHONY: help (.*)$", read("Makefile"), re.MULTILINE)
    assert phony
    shown = make("help").stdout
    for target in phony[1].split():
        assert f"make {target}" in shown, target


def test_ci_runs_what_a_person_runs() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    assert "set -eu" in script.read_text()
    assert "make lint test" in script.read_text()


def test_defaults_need_nothing_but_this_machine() -> None:
    assert SETTINGS["listen"].default == parse_address("127.0.0.1:9000")
