"""The plan of all training: arms x seeds, each with its configuration and work directory."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

import ml_collections

from dynet_jax.config.keys import KEYS
from dynet_jax.config.load import check_config, flatten, flatten_whole, override
from dynet_jax.config.schema import ARMS
from dynet_jax.config.variants import change_for_small_images
from dynet_jax.data import load_source
from dynet_jax.errors import UserError, one_line
from dynet_jax.machine import cores
from dynet_jax.models import create_model
from dynet_jax.plugins import imported_plugins
from dynet_jax.reproduce.arms import Arm
from dynet_jax.reproduce.budgets import EVALUATIONS, Budget, base_config, budget_named
from dynet_jax.reproduce.experiments import TITLES, Experiment, experiments
from dynet_jax.reproduce.foresight import foresee
from dynet_jax.tasks.task import make_task
from dynet_jax.train.setup import count_steps, make_run_optimizer, make_run_schedule
from dynet_jax.workdir.changes import FREE, changed_keys
from dynet_jax.workdir.files import IMAGES_FILE, LOCK_FILE, lock, read_config, write_whole
from dynet_jax.workdir.metrics import METRICS_FILE, read_metrics

PLAN_FILE, RUNS_FOLDER, FINISHED_FILE = "plan.json", "runs", "finished"
OF_ARMS = {key.name for key in KEYS.values() if key.set_by == ARMS}
LEFTOVERS = {LOCK_FILE, f"{PLAN_FILE}.tmp"}  # of a command that was killed before it wrote its plan


class Job(NamedTuple):
    """One run of an arm."""

    arm: Arm
    seed: int
    workdir: Path

    @property
    def is_finished(self) -> bool:
        return (self.workdir / FINISHED_FILE).exists()

    @property
    def finished_at(self) -> float:
        """Returns the time in seconds since the epoch; 0 if it is not finished."""
        return (self.workdir / FINISHED_FILE).stat().st_mtime if self.is_finished else 0.0

    @property
    def images(self) -> dict[str, int]:
        """Returns the numbers of training and test images; empty before the run has started."""
        file = self.workdir / IMAGES_FILE
        return json.loads(file.read_text()) if file.exists() else {}

    @property
    def steps_done(self) -> int:
        """Returns the step of the last reported line."""
        rows = read_metrics(self.workdir / METRICS_FILE, "train")
        return rows[-1]["step"] if rows else 0


class Plan:
    """The request to `dynet reproduce`.

    Attributes:
      like: the dataset whose recipe and length this one has; None for the one that it is registered with.
      experiments: {key: Experiment}. budget: the sizes of `budget_name`.
      is_whole: whether it contains all of the paper's experiments. networks: other networks, named by the user.
      common: the configuration of all arms, without network and seed.
      class_names, train_images, test_images: of the dataset.
    Raises UserError for anything invalid: an unknown dataset, budget, experiment or key of the configuration.
    """

    def __init__(
        self,
        dataset: str,
        budget_name: str,
        out: Path,
        *,
        data_dir: str | None = None,
        like: str | None = None,
        seeds: int = 3,
        only: Sequence[str] = (),
        networks: Sequence[str] = (),
        overrides: Sequence[str] = (),
    ):
        if seeds < 1:
            raise UserError(f"--seeds={seeds} leaves nothing to train; 3 or more show a spread")
        self.dataset, self.budget_name, self.out, self.data_dir = dataset, budget_name, out, data_dir
        self.like = like
        self.seeds, self.overrides = tuple(range(seeds)), list(overrides)
        self.budget: Budget = budget_named(budget_name)
        self.device: str | None = None  # that of all runs, 'cpu' or 'accelerator', once there are some
        self.threads: int | None = None  # number of cores of each run
        self.experiments: dict[str, Experiment] = experiments(self.budget, only, networks)
        self.is_whole, self.networks = TITLES.keys() <= self.experiments.keys(), list(networks)
        self.common = self._common(data_dir)
        train, test = (load_source(dataset, split, data_dir) for split in ("train", "test"))
        self.class_names, self.train_images, self.test_images = train.class_names, len(train), len(test)

    def _common(self, data_dir: str | None) -> ml_collections.ConfigDict:
        config = base_config(self.dataset, data_dir, self.budget, self.like)
        given = self._given
        for key in (KEYS[name] for name in sorted(given & KEYS.keys())):
            if key.set_by == ARMS:
                raise UserError(
                    f"{key.name} is set by dynet reproduce; choose a --budget, --experiments or --seeds instead"
                )
            if key.set_by:
                raise UserError(f"--config.{key.name} is set by {key.set_by}")
        override(config, self.overrides)
        if "warmup_epochs" not in given:
            config.warmup_epochs = min(config.warmup_epochs, config.epochs / 6)
        if "eval_every_epochs" not in given:
            config.eval_every_epochs = config.epochs / EVALUATIONS
        return config

    @property
    def _given(self) -> set[str]:
        """Returns the keys of the configuration that the user has set."""
        return {text.removeprefix("--config.").partition("=")[0] for text in self.overrides}

    @property
    def arms(self) -> list[Arm]:
        """Returns each arm once, in the order of the experiments."""
        return list(dict.fromkeys(arm for experiment in self.experiments.values() for arm in experiment.arms))

    def job(self, arm: Arm, seed: int) -> Job:
        return Job(arm, seed, self.out / RUNS_FOLDER / f"{arm.name}-s{seed}")

    def jobs(self, arm: Arm) -> list[Job]:
        return [self.job(arm, seed) for seed in self.seeds]

    @property
    def unfinished(self) -> list[tuple[Arm, list[Job]]]:
        """Returns the arms that are left to train, each with its runs."""
        waiting = [(arm, [job for job in self.jobs(arm) if not job.is_finished]) for arm in self.arms]
        return [(arm, jobs) for arm, jobs in waiting if jobs]

    def config(self, job: Job) -> ml_collections.ConfigDict:
        """Returns the configuration of a run. Raises UserError for a value out of its range."""
        config = self.common.copy_and_resolve_references()
        config.model.update({"name": job.arm.network, "num_classes": len(self.class_names), **job.arm.arguments})
        config.seed = job.seed
        if self.budget.for_small_images:
            change_for_small_images(config, keep=self._given)
        check_config(config)
        return config

    def check(self) -> None:
        """Raises UserError for anything that would fail in the runs: a value out of range, a large batch, small images.

        It does not use JAX's devices, because an accelerator's memory is for the processes that train.
        """
        size = self.common.data.image_size
        steps = count_steps(self.common, self.train_images)
        for arm in self.arms:
            config = self.config(self.job(arm, 0))
            stride = create_model(arm.network, **arm.arguments, small_input=config.model.small_input).stride
            if size < stride:
                raise UserError(f"images of {size} px are too small for {arm.title}, which has stride {stride}")
        make_task(config).training_transform()  # pyrefly: ignore[unbound-name]  (a plan has arms)
        make_run_optimizer(config, make_run_schedule(config, *steps))

    @property
    def steps(self) -> int:
        """Returns the number of steps of each run."""
        return count_steps(self.common, self.train_images)[1]

    @property
    def decides(self) -> str:
        """Returns what the plan will be able to decide, as far as that is known before anything is trained."""
        return foresee((arm.network for arm in self.arms), len(self.seeds), self.test_images)

    @property
    def command(self) -> str:
        """Returns the command that regenerates this report."""
        words = ["dynet", "reproduce", f"--dataset={self.dataset}", f"--budget={self.budget_name}", f"--out={self.out}"]
        words += [f"--data-dir={self.data_dir}"] if self.data_dir else []
        words += [f"--like={self.like}"] if self.like else []
        words += [f"--seeds={len(self.seeds)}"] if len(self.seeds) != 3 else []
        words += [f"--workers={max(1, len(cores()) // self.threads)}"] if self.threads not in (None, 1) else []
        words += [f"--import={name}" for name in imported_plugins()]
        words += [f"--networks={','.join(self.networks)}"] if self.networks else []
        named = [key for key in self.experiments if key in TITLES]
        words += [f"--experiments={','.join(named)}"] if named and (self.networks or not self.is_whole) else []
        return shlex.join(words + self.overrides)

    def claim(self) -> IO:
        """Creates the folder, or ensures that it holds a compatible plan; excludes other commands from it.

        Experiments and seeds may be added or left out, since each run is the same in both plans. The folder belongs to
        this plan until the returned file is closed. Raises UserError for another plan, or one that is running there.
        """
        self.check_folder()
        busy = f"another dynet reproduce is running in {self.out}; wait for it, or use another --out"
        held = lock(self.out, busy)
        if not (self.out / PLAN_FILE).exists():
            write_whole(self.out / PLAN_FILE, json.dumps(self._recipe(), indent=1))
        return held

    def check_folder(self) -> None:
        """Adopts the settings that are stored in the folder, which need not exist.

        Raises UserError if it holds something else, or another plan.
        """
        file = self.out / PLAN_FILE
        if not file.exists():
            if self.out.exists() and {path.name for path in self.out.iterdir()} - LEFTOVERS:
                raise UserError(f"{self.out} is not empty and holds no plan of dynet reproduce; use another --out")
            return
        before = read_json(file)
        self.threads, self.device = before.get("threads"), before.get("device")
        now = self._recipe()
        # For a key that the plan's version did not know, that version used the default.
        before = {name: key.defaults.get(self.common.task) for name, key in KEYS.items()} | before
        changed = changed_keys(before, now)
        for key in (key for key in now if key in changed):
            raise UserError(
                f"{self.out} holds a plan with {key}={before.get(key)!r}, not {now[key]!r}; use another --out, or "
                "the original settings"
            )

    def settle(self, device: str, threads: int | None) -> None:
        """Stores the device that runs are trained on, and the number of cores of each, the same for all runs.

        device: 'cpu' or an accelerator's name. Raises UserError if earlier runs used the other kind.
        """
        kind = "cpu" if device == "cpu" else "accelerator"
        if self.device is not None and self.device != kind:
            names = {"cpu": "a CPU", "accelerator": "an accelerator"}
            raise UserError(
                f"the runs in {self.out} were trained on {names[self.device]}, not {names[kind]}; use another --out, "
                "or that device (JAX_PLATFORMS=cpu hides an accelerator)"
            )
        if (kind, threads) != (self.device, self.threads):
            self.device, self.threads = kind, threads
            settled = {**self._recipe(), "device": kind, "threads": threads}
            write_whole(self.out / PLAN_FILE, json.dumps(settled, indent=1))

    def _recipe(self) -> dict:
        """Returns the settings that may not change in a folder, as JSON represents them."""
        common = {key: value for key, value in flatten(self.common).items() if key not in FREE and key not in OF_ARMS}
        data = {"dataset": self.dataset, **self._images, "classes": len(self.class_names)}
        return json.loads(json.dumps({**data, "budget": self.budget_name, **common}))

    @property
    def _images(self) -> dict[str, int]:
        return {"training images": self.train_images, "test images": self.test_images}

    def check_runs(self) -> None:
        """Raises UserError if a finished run was trained with settings other than the plan's."""
        for job in (job for arm in self.arms for job in self.jobs(arm) if job.is_finished):
            before, now = flatten_whole(read_config(job.workdir)), flatten_whole(self.config(job))
            before, now = before | job.images, now | self._images
            for key in (key for key in changed_keys(before, now) if key not in FREE or key in self._images):
                raise UserError(
                    f"{job.workdir} was trained with {key}={before.get(key)!r}, which is {now.get(key)!r} in this "
                    "version; use another --out"
                )


def last_evaluation(workdir: Path, steps: int) -> dict | None:
    """Returns the test scores after the given step; None if they are missing, for example after a full disk."""
    rows = read_metrics(workdir / METRICS_FILE, "test")
    return rows[-1] if rows and rows[-1]["step"] == steps else None


def read_json(file: Path):
    """Returns the content of a JSON file. Raises UserError if it cannot be read."""
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{file} is damaged ({one_line(error)}); remove it to start again; runs are kept") from error
