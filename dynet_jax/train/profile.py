"""A trace of a few training steps, for TensorBoard's or XProf's profile page."""

from collections.abc import Callable
from pathlib import Path

import jax

from dynet_jax.console import warn

WARM_UP_STEPS = 3  # the first steps only fill the pipeline


class Profile:
    """A trace of `steps` steps after the first three since this start, in WORKDIR/tensorboard/plugins/profile."""

    def __init__(self, workdir: Path, steps: int, say: Callable[[str], None], shown: Path | None = None):
        """Prepares the trace; `steps` = 0 takes none. `say` is told where it will finally be, which is in `shown`."""
        self._shown = (shown or workdir) / "tensorboard"
        self._folder, self._steps, self._say, self._on = workdir / "tensorboard", steps, say, False

    def after(self, step: int, state) -> None:
        """Starts and ends the trace; call it after every step with its number since this start, from 1."""
        if self._steps and step == WARM_UP_STEPS:
            jax.block_until_ready(state)
            self._start()
        elif self._on and step == WARM_UP_STEPS + self._steps:
            jax.block_until_ready(state)
            self.close()

    def _start(self) -> None:
        try:
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # Python calls would fill the trace viewer's million events
            jax.profiler.start_trace(self._folder, profiler_options=options)
            self._on = True
        except (OSError, RuntimeError) as error:
            warn(f"no profile can be taken ({error})")

    def close(self) -> None:
        """Writes the trace."""
        if self._on:
            self._on = False
            try:
                jax.profiler.stop_trace()
            except (OSError, RuntimeError) as error:
                return warn(f"the profile could not be written ({error})")
            self._say(f"profile written to {self._shown}/plugins/profile")
