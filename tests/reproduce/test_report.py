import json
import re

import numpy as np
import pytest

from dynet_jax.analysis.correlation import CorrelationStream
from dynet_jax.analysis.table import Table
from dynet_jax.reproduce.claims import claims
from dynet_jax.reproduce.document import Document, Figure, Section, write_html, write_markdown
from dynet_jax.reproduce.measurements import FOLDER
from dynet_jax.reproduce.report import note_device, note_failures, write_report
from dynet_jax.reproduce.results import Results
from tests.reproduce.fake_runs import finish, make_plan


def verdicts(plan):
    return {(claim.source, claim.statement.split(" (")[0]): claim.verdict for claim in claims(Results(plan))}


def as_the_paper(arm, seed):
    """Errors in the order of the paper, and a noise that all arms of a seed share."""
    error = {"dy": 20.0, "fix": 25.0}.get(arm.network.split("_")[0], 20.1)
    error += {1: 4.0, 2: 2.0, 4: 1.0}.get(arm.group_size, 0.0)
    if arm.network == "mobilenet_v2":
        error = 20 + 0.5 / arm.width
    return error + seed


@pytest.mark.slow
def test_claims_that_hold_are_seen(tmp_path):
    plan = make_plan(tmp_path)
    finish(plan, as_the_paper)
    found = verdicts(plan)
    cheaper = {("Table 1", "Dy-ResNet18"), *(key for key in found if key[0] != "Table 1")}
    assert {verdict for key, verdict in found.items() if key in cheaper} == {"seen"}
    assert {source for source, _ in found} == {"Table 1", "Table 4", "Table 5", "Table 6", "Fig. 5"}


def test_a_network_that_costs_more_than_its_base_is_no_saving(tmp_path):
    plan = make_plan(tmp_path, only=["table1"])
    finish(plan, lambda arm, seed: (10.0 if arm.is_dynamic else 30.0) + seed)
    results = Results(plan)
    for claim, (dynamic, base) in zip(claims(results), plan.experiments["table1"].pairs):
        cheaper = results.macs(dynamic) < results.macs(base)
        assert claim.verdict == ("seen" if cheaper else "not seen")
        assert ("fewer MACs" if cheaper else "more MACs") in claim.here


def test_an_advantage_that_is_not_there_does_not_shrink(tmp_path):
    plan = make_plan(tmp_path, only=["figure5"])
    finish(plan, lambda arm, seed: 20.0 + seed + arm.is_dynamic * 40 * arm.width)
    assert claims(Results(plan))[-1].verdict == "not seen"


def test_a_run_whose_last_evaluation_is_missing_does_not_count(tmp_path):
    plan = make_plan(tmp_path, only=["table6"])
    finish(plan, lambda arm, seed: 10.0)
    metrics = plan.job(plan.arms[0], 0).workdir / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:-1]))
    assert Results(plan).seeds(plan.arms[0]) == [1, 2]
    write_report(plan)


def test_equal_numbers_of_few_test_images_decide_nothing(tmp_path):
    plan = make_plan(tmp_path, only=["table6"])
    finish(plan, lambda arm, seed: 10.0 if arm.group_size == 1 else 10.0 - 100 / 359)
    assert [claim.verdict for claim in claims(Results(plan))] == ["not decided"]


def test_claims_that_are_turned_round_are_not_seen(tmp_path):
    plan = make_plan(tmp_path)
    finish(plan, lambda arm, seed: 60 - as_the_paper(arm, seed))
    found = verdicts(plan)
    assert found["Table 4", "Dy-mobile"] == "not seen"
    assert found["Table 5", "The error of Dy-mobile falls as g_t rises over 1, 2, 4, 6, on average"] == "not seen"
    assert (
        found["Fig. 5", "There is an advantage at the smallest width, and it shrinks as the width grows"] == "not seen"
    )


@pytest.mark.slow
def test_noise_decides_nothing(tmp_path):
    plan = make_plan(tmp_path)
    finish(plan, lambda arm, seed: 20 + 10 * np.random.default_rng([seed, *arm.name.encode()]).uniform())
    found = verdicts(plan)
    assert list(found.values()).count("not decided") > len(found) / 2


def test_only_seeds_that_both_have_finished_are_compared(tmp_path):
    plan = make_plan(tmp_path, only=["table4"])
    finish(plan, lambda arm, seed: None if (arm.network, seed) == ("fix_mobile", 1) else 10.0 * (seed + 1))
    results, (dynamic, fixed) = Results(plan), plan.experiments["table4"].pairs[0]
    assert results.errors(dynamic).values == pytest.approx((10, 20, 30))
    assert results.errors(dynamic, beside=[fixed]).values == pytest.approx((10, 30))
    assert results.images_per_second(dynamic) == (100.0, 100.0, 100.0)


def correlation(seed, mixing):
    rng, stream = np.random.default_rng(seed), CorrelationStream()
    stream.update(rng.normal(size=(8, 4, 4, 6)) + mixing * rng.normal(size=(8, 4, 4, 1)))
    return stream.summary()


def test_correlations_are_compared_seed_by_seed(tmp_path):
    plan = make_plan(tmp_path, only=["figure5"])
    (tmp_path / FOLDER / "correlation").mkdir(parents=True)
    for arm, mixing in zip(plan.experiments["figure5"].pairs[-1], (0.0, 3.0)):
        for seed in plan.seeds:
            file = tmp_path / FOLDER / "correlation" / f"{arm.name}-s{seed}.json"
            file.write_text(json.dumps({"stage6": correlation(seed, mixing).to_dict()}))
    assert [claim.verdict for claim in claims(Results(plan)) if claim.source == "Fig. 6"] == ["seen", "seen"]


@pytest.mark.slow
def test_the_report_is_whole_and_says_what_it_is_of(tmp_path):
    plan = make_plan(tmp_path)
    finish(plan, as_the_paper)
    note_device(plan, "cpu", 2, 1)
    page, text = (file.read_text() for file in write_report(plan))
    for word in ("digits: 1,438 training and 359 test images", "small: 3 epochs", plan.command, "cores of"):
        assert word in text
        assert word in page or word.replace("&", "&amp;") in page
    assert "Not complete" not in text
    row = next(line for line in text.splitlines() if line.startswith("| Fix-mobile (0.25) "))
    assert [cell.strip() for cell in row.split("|")][2:6] == ["25.00", "26.00", "27.00", "26.00 ± 1.00"]
    for name in re.findall(r"!\[.*?\]\((.*?)\)", text):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(sources) > 8
    assert all(source.startswith(("data:image/", "#s")) for source in sources)


@pytest.mark.slow
def test_the_report_is_a_function_of_the_folder(tmp_path):
    plan = make_plan(tmp_path, only=["table4"])
    finish(plan, as_the_paper)
    first = [file.read_text() for file in write_report(plan)]
    assert [file.read_text() for file in write_report(plan)] == first


def test_what_is_missing_and_what_failed_is_said(tmp_path):
    plan = make_plan(tmp_path, only=["table4"])
    finish(plan, lambda arm, seed: None if (arm.network, seed) == ("fix_mobile", 1) else 10.0)
    note_failures(plan, {plan.job(plan.arms[1], 1).workdir: "the loss is not finite"})
    _, text = (file.read_text() for file in write_report(plan))
    assert "**Not complete**: of these networks fewer than 3 runs are finished: fix_mobile-w0.25 (2)" in text
    assert "**Failed**: `fix_mobile-w0.25-s1`: the loss is not finite" in text


def test_a_plan_without_runs_has_a_report_too(tmp_path):
    plan = make_plan(tmp_path)
    _, text = (file.read_text() for file in write_report(plan))
    assert "0 of 51 finished" in text


def test_text_is_text_in_both_forms(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "a.png").write_bytes(b"\x89PNG")
    blocks = [
        "a **bold** `x < y`",
        Table(("|r|", "n"), [("a|b <c>", 3)]),
        Figure(tmp_path / "figures" / "a.png", 'c "d"'),
    ]
    document = Document("T & t", [], [Section("S", blocks)])
    write_markdown(document, tmp_path / "r.md")
    write_html(document, tmp_path / "r.html")
    text, page = (tmp_path / "r.md").read_text(), (tmp_path / "r.html").read_text()
    assert r"| a\|b <c> |" in text
    assert '![c "d"](figures/a.png)' in text
    for part in ("<h1>T &amp; t</h1>", "<td>a|b &lt;c&gt;</td>", "<code>x &lt; y</code>", 'alt="c &quot;d&quot;"'):
        assert part in page


def test_rows_of_training_that_a_stop_has_split_change_no_loss(tmp_path):
    plan = make_plan(tmp_path / "out", only=["table6"])
    finish(plan, lambda arm, seed: 10.0 + seed)
    dynamic = plan.arms[-1]
    before = Results(plan).test_losses(dynamic)
    with (plan.job(dynamic, 0).workdir / "metrics.jsonl").open("a") as file:
        row = {"step": plan.steps, "kind": "train", "loss": 9.0, "learning_rate": 0.1, "images_per_second": 1.0}
        file.write(json.dumps(row) + "\n")
    assert Results(plan).test_losses(dynamic) == before
    assert before.values == (1.0, 1.0, 1.0)
