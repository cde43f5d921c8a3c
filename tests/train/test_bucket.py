"""A work directory in a bucket: its lease, its checkpoints and small files, and the messages if the bucket fails."""

import itertools
import os
import random
import subprocess
import sys
import threading
import time

import chex
import fsspec
import jax
import numpy as np
import pytest

from dynet_jax import bucket, bucket_files
from dynet_jax.errors import UserError
from dynet_jax.export import files as exported
from dynet_jax.workdir import lease as leases
from dynet_jax.workdir.checkpoint import Checkpoints
from dynet_jax.workdir.files import read_class_names, write_whole
from dynet_jax.workdir.holding import hold, lock_workdir
from dynet_jax.workdir.lease import Lease
from tests.bucket_server import FAULTS, bucket_server
from tests.train.test_checkpoint import corrupted, make_state, template

_numbers = itertools.count()


@pytest.fixture
def server():
    yield bucket_server()
    bucket_server().reset()


@pytest.fixture
def workdir(server):
    return bucket.place(f"gs://bucket/runs/{next(_numbers)}")


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(bucket, "SECONDS", 0.3)
    monkeypatch.setattr(leases, "EXPIRY_SECONDS", 0.6)
    monkeypatch.setattr(leases, "POLL_SECONDS", 0.1)


@pytest.fixture
def hasty(monkeypatch):
    """What has failed is tried again at once."""
    patience = bucket.patience()
    patience["retry"] = patience["retry"].with_delay(initial=0.01, maximum=0.01)
    monkeypatch.setattr(bucket, "patience", lambda: patience)


def save(workdir, *steps, **options):
    checkpoints = Checkpoints(workdir, tidy=True, **options)
    for step in steps:
        checkpoints.save(make_state(step), wait=True)
    checkpoints.close()


@pytest.fixture(scope="module")
def saved():
    """The objects of a work directory with checkpoints of steps 1 and 2: copying them is quicker than saving."""
    server = bucket_server()
    save(bucket.place("gs://bucket/saved"), 1, 2)
    return {name.removeprefix("saved"): server.read(name) for name in server.names("saved/")}


@pytest.fixture
def with_two(server, workdir, saved):
    for name, content in saved.items():
        server.replace(f"{bucket.key(workdir)}{name}", content)
    return workdir


def put_lease(workdir, **said):
    """Stores a lease as another run would leave it. Returns its generation."""
    blob = bucket.handle(workdir).blob(f"{bucket.key(workdir)}/.lease")
    blob.metadata = {"run": "another", "machine": "elsewhere", "process": "1 1"} | said
    blob.upload_from_string(b"")
    return blob.generation


def test_of_runs_that_start_at_once_one_gets_the_lease(workdir):
    outcomes = []

    def start():
        try:
            outcomes.append(Lease(workdir, "busy"))
        except UserError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=start) for _ in range(6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert sorted(map(str, outcomes)).count("busy") == 5
    (held,) = (outcome for outcome in outcomes if isinstance(outcome, Lease))
    held.close()
    Lease(workdir, "busy").close()  # at once


def test_a_dead_process_of_this_machine_is_followed_at_once(workdir):
    put_lease(workdir, machine=leases._machine(), process=f"{os.getpid()} 1")  # its number has been given again
    start = time.monotonic()
    Lease(workdir, "busy").close()
    assert time.monotonic() - start < 2


def test_a_silent_run_elsewhere_is_followed_after_a_while_and_one_that_is_heard_is_not(workdir, impatient, capfd):
    put_lease(workdir)
    start = time.monotonic()
    held = Lease(workdir, "busy")
    assert time.monotonic() - start > leases.EXPIRY_SECONDS
    assert "checking for 1 s whether it is alive" in capfd.readouterr().err
    held.close()
    put_lease(workdir)
    heard = threading.Timer(0.3, put_lease, [workdir])
    heard.start()
    with pytest.raises(UserError, match="busy"):
        Lease(workdir, "busy")
    heard.join()


@pytest.mark.parametrize("fault", ["lost", "cut", "unavailable"])
def test_an_answer_that_is_lost_does_not_lose_the_lease(server, workdir, fault):
    server.coming = ["", fault]  # the look, and the writing
    held = Lease(workdir, "busy")
    server.coming = [fault]
    held.renew()
    held.close()
    assert not server.names(f"{bucket.key(workdir)}/.lease")


def small(path, content):
    write_whole(path, content.decode().removesuffix("\n"))


def text(path, content):
    with path.open("w") as file:
        file.write(content.decode())


def picture(path, content):
    path.write_bytes(content)


def in_a_session(path, content):
    exported.write_whole(path, content * (5 << 20))


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("write", [small, text, picture, pytest.param(in_a_session, marks=pytest.mark.slow)])
def test_files_are_written_whatever_answer_fails(server, workdir, hasty, write, fault):
    for number in range(3):  # of the requests, if there are so many
        server.coming = [*[""] * number, fault]
        write(workdir / "file", b"%d\n" % number)
        server.coming = []
        assert set(server.read(f"{bucket.key(workdir)}/file").split()) == {b"%d" % number}


@pytest.mark.slow
def test_a_request_without_an_answer_is_made_again(server, workdir):
    """By gcsfs, which has no end of its own for what nobody answers."""
    (workdir / "file").write_bytes(b"content")
    try:
        bucket_files.reach_by(bucket.write, 0.3)
        server.coming = ["silent"]
        assert fsspec.filesystem("gs").cat_file(str(workdir / "file")) == b"content"
    finally:
        bucket_files.reach_by(bucket.write, bucket.REQUEST_SECONDS)


@pytest.mark.slow
def test_a_request_of_tensorstore_without_an_answer_is_made_again(server):
    server.replace("silent/file", b"content")
    server.coming = ["silent"]
    script = "from dynet_jax import bucket; import tensorstore as ts; "
    script += "print(ts.KvStore.open('gs://bucket/silent/').result().read('file').result().value)"
    waiting = {"TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **waiting}, capture_output=True, text=True, timeout=120
    )
    assert "content" in done.stdout, done.stderr


@pytest.mark.slow
def test_a_checkpoint_is_saved_though_a_third_of_the_answers_to_changes_is_lost(server, with_two):
    """At random: TensorStore would write its manifest for ever if every third answer were lost."""
    rng, lost = random.Random(0), []

    def lose(request):
        if request.command != "GET" and rng.random() < 0.3:
            lost.append(request.path)
            return "lost"

    checkpoints = Checkpoints(with_two, keep=2, tidy=True, warn=pytest.fail)
    server.before = lose
    checkpoints.save(make_state(3), wait=True)
    server.reset()
    assert len(lost) > 8
    checkpoints = Checkpoints(with_two)
    assert checkpoints.steps == [2, 3]
    chex.assert_trees_all_equal(checkpoints.restore(template()), make_state(3))
    assert not objects(server, with_two, 1)


def test_a_file_whose_writing_breaks_off_is_not_there(server, workdir):
    def break_off():
        with (workdir / "file.png").open("wb") as file:
            file.write(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        break_off()
    assert not server.names(f"{bucket.key(workdir)}/file.png")


def test_a_small_file_that_may_not_be_read_is_not_called_missing(server, workdir):
    write_whole(workdir / "labels.json", '["a", "b"]')
    server.refusal = (403, "denied")
    with pytest.raises(UserError, match="permission is missing"):
        read_class_names(workdir)


def test_no_session_of_a_file_that_is_not_there_is_taken_for_it(server, workdir):
    """The bucket is gone, or another run has written meanwhile."""
    from google.api_core.exceptions import NotFound

    (workdir / "file").write_bytes(b"another")
    server.before = lambda request: server.storage.resumable.clear() if request.command == "PUT" else None
    with pytest.raises(NotFound):
        bucket.write(workdir / "file", bytes(9 << 20))


@pytest.mark.parametrize("remove", ["move", "remove", "rmtree", "rmtree in a batch", "unlink"])
def test_files_are_removed_whatever_answer_is_lost(server, workdir, hasty, monkeypatch, remove):
    """Repeated, such a request finds nothing."""
    if "batch" in remove:  # as gcsfs does it at Google, in one request
        monkeypatch.setattr("gcsfs.core.GCSFileSystem.on_google", True)
    names = ["one"] if remove == "unlink" else ["one", "folder/two", "folder/three"]
    for name in names:
        server.replace(f"{bucket.key(workdir)}/a/{name}", name.encode())
    asked = set()

    def lose(request):
        if (request.command == "DELETE" or "/batch" in request.path) and request.path not in asked:
            asked.add(request.path)
            return "lost"

    server.before = lose
    if remove == "move":
        bucket.move(workdir / "a", workdir / "b")
        for name in names:
            assert server.read(f"{bucket.key(workdir)}/b/{name}") == name.encode()
    elif remove == "remove":
        bucket.remove(workdir / "a")
    else:
        getattr(workdir / "a" / ("one" if remove == "unlink" else ""), remove.split()[0])()
    assert asked
    assert not server.names(f"{bucket.key(workdir)}/a")


def test_a_lost_lease_ends_the_run_and_commits_and_pushes_nothing(server, workdir):
    holding = hold(workdir, lock_workdir(workdir))
    checkpoints = Checkpoints(workdir, before_commit=holding.before_commit)
    checkpoints.save(make_state(1), wait=True)
    taken = put_lease(workdir)
    (holding.files / "metrics.jsonl").write_text("late\n")
    with pytest.raises(UserError, match="another run has taken over"):
        checkpoints.save(make_state(2), wait=True)
    with pytest.raises(UserError, match="another run has taken over"):
        holding.check()
    holding.close()
    assert Checkpoints(workdir).steps == [1]
    assert not server.names(f"{bucket.key(workdir)}/metrics.jsonl")
    assert bucket.handle(workdir).get_blob(f"{bucket.key(workdir)}/.lease").generation == taken
    assert not server.names(f"{bucket.key(workdir)}/checkpoints/2/commit_success.txt")


def test_small_files_are_there_before_a_checkpoint_is_and_come_back(server, workdir):
    holding = hold(workdir, lock_workdir(workdir))
    (holding.files / "metrics.jsonl").write_text("first\n")
    (holding.files / "tensorboard").mkdir()
    (holding.files / "tensorboard/events").write_text("events")
    save(workdir, 1, before_commit=holding.before_commit)
    assert server.read(f"{bucket.key(workdir)}/metrics.jsonl") == b"first\n"
    assert server.read(f"{bucket.key(workdir)}/tensorboard/events") == b"events"
    assert (hold(workdir, None).files / "metrics.jsonl").read_text() == "first\n"  # another host's
    (holding.files / "metrics.jsonl").write_text("first\nsecond\n")
    holding.close()
    assert server.read(f"{bucket.key(workdir)}/metrics.jsonl") == b"first\nsecond\n"
    assert not holding.files.exists()


def test_files_that_cannot_be_sent_stay(server, workdir, impatient, capfd):
    holding = hold(workdir, lock_workdir(workdir))
    (holding.files / "metrics.jsonl").write_text("last\n")
    server.refusal = (503, "away")
    holding.close()
    assert f"they are in {holding.files}" in capfd.readouterr().err
    assert (holding.files / "metrics.jsonl").read_text() == "last\n"


def objects(server, workdir, step):
    return server.names(f"{bucket.key(workdir)}/checkpoints/{step}/")


def without(part):
    def damage(server, workdir):
        [server.remove(name) for name in objects(server, workdir, 2) if f"/2/{part}/" in name]

    return damage


def cut_short(server, workdir):
    for name in objects(server, workdir, 2):
        content = server.read(name)
        server.replace(name, content[: len(content) // 2])


def with_another_manifest(server, workdir):
    (name,) = (name for name in objects(server, workdir, 2) if name.endswith("manifest/metadata"))
    server.replace(name, server.read(name.replace("/2/", "/1/")))


@pytest.mark.parametrize(
    "damage",
    [without("state"), without("manifest"), cut_short, with_another_manifest],
    ids=["no state", "no manifest", "cut short", "another manifest"],
)
def test_a_damaged_checkpoint_is_passed_over_and_set_aside(server, with_two, damage):
    workdir = with_two
    damage(server, workdir)
    lines = []
    checkpoints = Checkpoints(workdir, warn=lines.append)
    chex.assert_trees_all_equal(checkpoints.restore(template(), set_aside=True), make_state(1))
    assert "checkpoints/2 is damaged" in lines[0]
    assert server.names(f"{bucket.key(workdir)}/damaged/2/")
    assert not objects(server, workdir, 2)
    if damage is cut_short:  # the run comes to that step again
        checkpoints.save(make_state(2), wait=True)
        assert int(Checkpoints(workdir).restore(template()).step) == 2


@pytest.mark.slow
def test_no_corruption_is_missed(server, with_two):
    """Every object of the newest checkpoint in turn: its damage is either found, or changes nothing."""
    workdir = with_two
    wanted = {step: jax.device_get(make_state(step)) for step in (1, 2)}
    good = {name: server.read(name) for name in objects(server, workdir, 2)}
    rng, found = np.random.default_rng(0), 0
    for trial in range(24):
        name = sorted(good)[trial % len(good)]
        server.replace(name, corrupted(good[name], rng)[0])
        lines: list[str] = []
        state = jax.device_get(Checkpoints(workdir, warn=lines.append).restore(template()))
        chex.assert_trees_all_equal(state, wanted[int(state.step)])
        found += int(state.step) == 1
        assert bool(lines) == (int(state.step) == 1), name
        server.replace(name, good[name])
    assert found > 6


def test_what_cannot_be_reached_is_not_called_damaged(server, with_two, impatient):
    workdir = with_two
    checkpoints = Checkpoints(workdir)
    server.refusal = (403, "denied")
    with pytest.raises(UserError, match="permission is missing"):
        checkpoints.restore(template(), set_aside=True)

    server.reset()

    def refuse_from_now_on(request):
        server.refusal = (403, "denied") if "manifest" in request.path else server.refusal

    server.before = refuse_from_now_on  # after the steps have been listed
    with pytest.raises(UserError, match=r"permission is missing"):
        checkpoints.restore(template(), set_aside=True)
    server.reset()
    assert not server.names(f"{bucket.key(workdir)}/damaged/")
    assert int(Checkpoints(workdir).restore(template()).step) == 2


def test_no_failure_is_taken_for_an_empty_folder(server, with_two):
    """A run would begin anew. The bucket refuses the first request, the third, the fifth, ... and all after it."""
    refused = 0
    for number in range(0, 40, 2):
        asked = itertools.count()

        def refuse(request, number=number, asked=asked):
            server.refusal = (403, "denied") if next(asked) >= number else None

        server.before = refuse
        try:
            with bucket.told(with_two):
                assert Checkpoints(with_two).steps == [1, 2]
        except UserError as error:
            refused += "permission is missing" in str(error)
        server.reset()
    assert refused > 10


def test_what_a_killed_save_left_is_removed_by_the_next_run(server, with_two):
    workdir = with_two
    server.remove(f"{bucket.key(workdir)}/checkpoints/2/commit_success.txt")
    assert Checkpoints(workdir).steps == [1]
    save(workdir, 3)
    assert objects(server, workdir, 2) == []
    assert Checkpoints(workdir).steps == [1, 3]


def test_a_save_outlives_a_bucket_that_is_away_and_training_does_not_wait(server, workdir):
    lines = []
    checkpoints = Checkpoints(workdir, warn=lines.append)
    server.refusal = (503, "away")
    start = time.monotonic()
    checkpoints.save(make_state(1))
    checkpoints.save(make_state(2))
    assert time.monotonic() - start < 1
    assert lines == ["the checkpoint of step 2 is skipped, as the previous one is still being saved"]
    time.sleep(0.2)
    server.reset()
    checkpoints.save(make_state(3), wait=True)
    assert Checkpoints(workdir).steps == [1, 3]


def test_a_save_that_is_refused_is_tried_again_and_the_last_one_is_an_error(server, workdir, impatient):
    save(workdir, 1)
    lines = []
    checkpoints = Checkpoints(workdir, warn=lines.append)
    server.refusal = (403, "denied")
    checkpoints.save(make_state(2))
    deadline = time.monotonic() + 30
    while not lines and time.monotonic() < deadline:
        checkpoints.check()
    assert "the newest is of step 1. Training continues and will try again at the next save" in lines[0]
    with pytest.raises(UserError, match=r"the newest is of step 1\. When the bucket can be written to, run"):
        checkpoints.save(make_state(3), wait=True)
    server.reset()
    checkpoints.save(make_state(4), wait=True)
    assert Checkpoints(workdir).steps == [1, 4]


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        ((401, "Invalid Credentials"), ".*credentials have expired .*gcloud auth application-default login"),
        ((403, "denied"), r"permission is missing .*storage\.objectUser .*storage\.buckets\.get"),
        ((429, "too many"), "a quota of the bucket or the project is exhausted"),
        ((503, "away"), "the bucket cannot be reached .* run the same command again"),
    ],
)
def test_what_is_wrong_is_one_line(server, workdir, impatient, refusal, said):
    server.refusal = refusal
    with pytest.raises(UserError, match=rf"^gs://bucket/runs/\d+: {said}") as caught:
        bucket.check_access(workdir)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == (75 if refusal[0] == 503 else 2)


def test_a_bucket_that_is_not_there(server):
    with pytest.raises(
        UserError, match="there is no bucket other; create it by `gcloud storage buckets create gs://other`"
    ):
        bucket.check_access("gs://other/run")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    monkeypatch.delitem(sys.modules, "dynet_jax.bucket_files", raising=False)
    with pytest.raises(UserError, match="needs more packages: pip install gcsfs google-cloud-storage"):
        bucket.place("gs://bucket/run")
