"""Who is asked to leave, and how: scripts and notebooks by signals, threads by an event."""

import signal
import threading
import time

import pytest

from dynet_jax.train import loop
from dynet_jax.train.interruption import SIGNALS, Interruption
from dynet_jax.workdir.checkpoint import Checkpoints
from dynet_jax.workdir.metrics import read_metrics

SECONDS = 600


@pytest.fixture(autouse=True)
def handlers_stay():
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_in_a_notebook_the_second_interrupt_is_a_keyboard_interrupt(request):
    """The kernel answers it as it did before; it would end if the system answered."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts its background jobs without it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    with Interruption() as interruption:
        assert not interruption.seen
        signal.raise_signal(signal.SIGINT)
        assert interruption.seen
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_in_a_command_the_second_signal_is_the_systems():
    with Interruption(ends_process=True) as interruption:
        signal.raise_signal(signal.SIGTERM)
        assert interruption.seen
        assert [signal.getsignal(number) for number in SIGNALS] == [signal.SIG_DFL] * 2


def test_an_event_asks_too():
    stop = threading.Event()
    with Interruption(stop) as interruption:
        assert not interruption.seen
        stop.set()
        assert interruption.seen


class Training(threading.Thread):
    """A run in a thread."""

    code: int | BaseException | None = None

    def __init__(self, config, workdir, **options):
        super().__init__(daemon=True)
        self._train = lambda: loop.train(config, workdir, **options)
        self.start()

    def run(self):
        try:
            self.code = self._train()
        except BaseException as error:
            self.code = error


@pytest.mark.slow
def test_a_run_in_a_thread_stops_at_the_event_and_goes_on(tiny_config, tmp_path):
    config = tiny_config.copy_and_resolve_references().unlock()
    config.epochs, config.checkpoint_every_steps = 40.0, 1000
    stop = threading.Event()
    training = Training(config, tmp_path, stop=stop)
    end = time.monotonic() + SECONDS
    while training.is_alive() and not read_metrics(tmp_path / "metrics.jsonl", "train"):
        assert time.monotonic() < end
        time.sleep(0.05)
    stop.set()
    training.join(SECONDS)
    assert training.code == loop.INTERRUPTED
    step = Checkpoints(tmp_path).latest_step
    assert 0 < step < 40 * 22
    config.epochs = (step + 4) / 22
    training = Training(config, tmp_path, allow_config_change=True)
    training.join(SECONDS)
    assert training.code == 0
    assert read_metrics(tmp_path / "metrics.jsonl", "train")[-1]["step"] == step + 4
