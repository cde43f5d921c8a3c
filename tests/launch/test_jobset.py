"""launch/gke_jobset.yaml, as JobSet would read it."""

import pytest

from tests.launch.machine import ROOT


def test_jobset():
    yaml = pytest.importorskip("yaml")  # Flax requires it
    jobset = yaml.safe_load((ROOT / "launch/gke_jobset.yaml").read_text())
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    width, height = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert job["parallelism"] == job["completions"] == width * height // chips
    assert (job["completionMode"], job["backoffLimit"], pod["restartPolicy"]) == ("Indexed", 0, "Never")
    # What would only happen again ends all; everything else starts all again.
    (rule,) = job["podFailurePolicy"]["rules"]
    assert (rule["action"], rule["onExitCodes"]["values"]) == ("FailJob", [1, 2])
    assert rule["onExitCodes"]["containerName"] == container["name"]
    policy = jobset["spec"]["failurePolicy"]
    assert policy["rules"] == [{"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}]
    assert policy["maxRestarts"] > 0
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    # train.py takes the arguments as they stand.
    assert "command" not in container  # the image's entry point
    assert container["args"][-1] == "--distributed"
    assert (ROOT / container["args"][0].removeprefix("--config=")).is_file()
