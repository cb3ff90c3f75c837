"""The state directory, the ports and arms.json: what is told when something is in the way."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from coalmine.arms import Arm
from coalmine.fencing import FencedOff
from coalmine.modeldir import ModelDirectoryError
from coalmine.rollout import DeployedModel
from coalmine.spec import ModelSpec, ServiceSpec
from coalmine.stack import (
    AlreadyRunningError,
    LocalArmHost,
    NotRunningError,
    Part,
    Ports,
    PortsTakenError,
    Running,
    StackError,
    StateDirectory,
    read_arms,
    read_running,
)
from coalmine.stack._offer import check_model
from coalmine.stack._ports import check_ports

MODEL = DeployedModel("3", Path("/models/3"), "sha256:3")
RUNNING = Running("ev", "f.yaml", os.getpid(), 100.0, (Part("gateway", 12, "http://x"),))


def test_a_second_up_is_told_what_runs(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path / "s")
    with state.locked():
        state.write_running(RUNNING)
        with pytest.raises(AlreadyRunningError, match=f"pid {os.getpid()}") as caught:
            with StateDirectory(tmp_path / "s").locked():
                pass
        assert caught.value.running == RUNNING
        assert read_running(tmp_path / "s") == RUNNING
    with pytest.raises(NotRunningError, match="coalmine up FILE"):
        read_running(tmp_path / "s")
    with state.locked():
        pass


def test_the_lock_goes_with_a_killed_process(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from coalmine.stack import StateDirectory\n"
        "with StateDirectory(Path(sys.argv[1])).locked():\n"
        "    print('locked', flush=True); time.sleep(600)\n"
    )
    command = (sys.executable, "-c", program, str(tmp_path))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(StackError, match="try again"), StateDirectory(tmp_path).locked():
            pass
        holder.kill()
    with pytest.raises(NotRunningError):
        read_running(tmp_path)
    with StateDirectory(tmp_path).locked():
        pass


def test_a_state_directory_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StackError, match="--state"),
        StateDirectory(tmp_path / "file" / "x").locked(),
    ):
        pass


def test_a_taken_port_is_named_with_its_part_and_the_way_out() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(PortsTakenError, match=rf"{port} \(canary arm\).*--port \d+"):
            check_ports(Ports(port - 4))
    with pytest.raises(PortsTakenError):
        check_ports(Ports(70000))


def test_the_arms_asked_for_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "arms.json"
    host = LocalArmHost(path, model_name="ev", ports=Ports().arms)
    assert read_arms(path).arms == {}
    one = DeployedModel("3", tmp_path / "models" / "3", "sha256:a")
    two = DeployedModel("4", tmp_path / "models" / "4", "sha256:b")
    host.deploy(Arm.STABLE, one)
    host.deploy(Arm.SHADOW, two)
    host.deploy(Arm.SHADOW, two)
    assert host.current() == {Arm.STABLE: one, Arm.SHADOW: two}
    assert json.loads(path.read_text())["generation"] == 2, "the same wish again changes nothing"
    host.retire(Arm.SHADOW)
    host.retire(Arm.CANARY)
    assert host.current() == {Arm.STABLE: one}
    assert read_arms(path).generation == 3


@pytest.mark.parametrize("text", ["{", "[]", '{"arms": {"moon": {}}}', '{"arms": {}}'])
def test_a_damaged_arms_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "arms.json"
    path.write_text(text)
    with pytest.raises(StackError, match=r"arms\.json"):
        read_arms(path)


async def test_an_arm_that_does_not_answer_is_not_ready(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        host = LocalArmHost(
            tmp_path / "arms.json", model_name="ev", ports={Arm.STABLE: closed.getsockname()[1]}
        )
        assert not await host.ready(Arm.STABLE, "3")


def test_a_model_that_is_not_the_services_is_named() -> None:
    service = ServiceSpec(name="ev", model=ModelSpec(uri="models:/other@champion"))
    with pytest.raises(StackError, match="models:/other@champion names another model than"):
        check_model(service)


@pytest.mark.parametrize("scheme", ["file:", "file://"])
def test_a_model_directory_without_its_card_is_named(tmp_path: Path, scheme: str) -> None:
    service = ServiceSpec(name="ev", model=ModelSpec(uri=f"{scheme}{tmp_path}"))
    with pytest.raises(ModelDirectoryError, match=rf"{tmp_path}/model\.yaml: missing"):
        check_model(service)
    assert check_model(ServiceSpec(name="ev", model=ModelSpec(uri="models:/ev/3"))) is None


def test_arms_are_not_changed_by_a_controller_that_was_overtaken(tmp_path: Path) -> None:
    path = tmp_path / "arms.json"
    old, new = (LocalArmHost(path, model_name="ev", ports=Ports().arms) for _ in range(2))
    old.claim(1)
    old.deploy(Arm.STABLE, MODEL)
    new.claim(2)
    with pytest.raises(FencedOff, match="controller 2 has taken over"):
        old.deploy(Arm.CANARY, MODEL)
    with pytest.raises(FencedOff):
        old.retire(Arm.STABLE)
    assert new.current() == {Arm.STABLE: MODEL}
    new.retire(Arm.STABLE)
    assert new.current() == {}
