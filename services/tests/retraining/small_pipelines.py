"""A pipeline of the shape of the real one, whose work does what its reason says. For the tests."""

from kfp import dsl


@dsl.component(base_image="coalmine/test-python", install_kfp_package=False)
def work(reason: str) -> str:
    import os
    import signal
    import time
    from pathlib import Path

    from coalmine.retraining import emit_event, step

    first = Path(os.environ["COALMINE_RUN_DIR"]).parent / "first"
    again = first.exists()
    first.touch()
    with step("work"):
        if "fail" in reason or ("flaky" in reason and not again):
            raise ValueError("the data is upside down")
        if "stubborn" in reason:  # it will not be asked to leave, and has children that would stay
            import subprocess
            import sys

            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            for own_session in (False, True):
                sleep = [sys.executable, "-c", "import time; time.sleep(3600)"]
                child = subprocess.Popen(sleep, start_new_session=own_session)
                with (first.parent / "children").open("a") as file:
                    file.write(f"{child.pid}\n")
            time.sleep(3600)
        if "hang" in reason or ("linger" in reason and not again):
            time.sleep(3600)
        if "die" in reason or ("stumble" in reason and not again):
            os.kill(int(os.environ["COALMINE_RUN_PROCESS"]), signal.SIGKILL)
            time.sleep(3600)
    decision = "reject" if "reject" in reason else "promote"
    emit_event("decision", decision=decision, reasons=[f"because of {reason}"])
    return decision


@dsl.component(base_image="coalmine/test-python", install_kfp_package=False)
def register() -> None:
    from coalmine.retraining import emit_event, step

    with step("register"):
        emit_event("registered", version="2")


@dsl.component(base_image="coalmine/test-python", install_kfp_package=False)
def record() -> None:
    from coalmine.retraining import step

    with step("record"):
        pass


@dsl.component(base_image="coalmine/test-python", install_kfp_package=False)
def tell(run_id: str, model_name: str, reason: str, status: dsl.PipelineTaskFinalStatus) -> None:
    from coalmine.retraining import Notice, notify, step

    with step("notify"):
        notify(Notice(run=run_id, model=model_name, outcome=status.state, reason=reason))


@dsl.pipeline(name="small")
def pipeline(run_id: str, model_name: str, reason: str) -> None:
    exit_step = tell(run_id=run_id, model_name=model_name, reason=reason)
    with dsl.ExitHandler(exit_step):
        done = work(reason=reason)
        done.set_retry(1, backoff_duration="1s")
        with dsl.If(done.output == "promote"):
            register()
        with dsl.Else():
            record()


@dsl.pipeline(name="patient")
def patient_pipeline(run_id: str, model_name: str, reason: str) -> None:
    """The same, and its work is not tried again."""
    exit_step = tell(run_id=run_id, model_name=model_name, reason=reason)
    with dsl.ExitHandler(exit_step):
        done = work(reason=reason)
        with dsl.If(done.output == "promote"):
            register()
        with dsl.Else():
            record()
