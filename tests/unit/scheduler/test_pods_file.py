"""The file that says where pods are rented."""

from __future__ import annotations

import uuid
from decimal import Decimal
from pathlib import Path

import pytest
import trustme

from podium_cli.stack.credentials import Credentials
from podium_cli.stack.environment import Environments
from podium_cli.stack.options import StackOptions
from podium_runtime import clock
from podium_scheduler import pod_wiring
from podium_scheduler.adapters import pods_file
from podium_scheduler.app import records
from podium_scheduler.domain import offers
from podium_scheduler.domain.autoscaling import policy
from podium_scheduler.settings import SchedulerSettings
from podium_scheduler.simulation.pod_ledger import PodLedgerModel

FULL = """
cluster: prod
image: podium-worker:1
scheduler_address: scheduler.example.com:443
limits: {max_pods: 7, usd_per_hour: 12.5}
wishes: {age_gate_s: 60}
workloads:
  minilm: {gpu_types: [NVIDIA L4, NVIDIA A40], clouds: [SECURE], warm_pods: 1}
providers:
  docker:
    offers: [{gpu_type: L4, price_usd_per_hour: 0.4, vram_gib: 24, cuda_version: "12.8"}]
  kubernetes:
    offers: [{gpu_type: NVIDIA-L4, price_usd_per_hour: 0.5}]
  runpod: {gpu_types: [NVIDIA L4]}
  digitalocean: {regions: [nyc2]}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "pods.yaml"
    path.write_text(text)
    return path


def settings(path: Path | None, **more: str) -> SchedulerSettings:
    return SchedulerSettings(
        postgres_url="postgresql://x/y", redis_url="redis://x", internal_token="a", join_token="b",
        operator_token="c", pods=path,
        **more,  # type: ignore[arg-type]
    )  # fmt: skip


def test_a_full_file(tmp_path: Path) -> None:
    plan = pods_file.load(write(tmp_path, FULL))
    rules = plan.policy
    assert (rules.limits.max_pods, rules.limits.usd_per_hour, rules.limits.usd_per_day) == (7, 12.5, None)
    own = rules.wishes_for("minilm")
    assert own.gpu_types == ("NVIDIA L4", "NVIDIA A40") and own.clouds == {offers.Cloud.SECURE} and own.warm_pods == 1
    assert rules.wishes_for("clip").age_gate_s == 60
    assert plan.providers.docker is not None
    offer = plan.providers.docker.offers[0].of("docker")
    assert (offer.vram_bytes, offer.cuda_version) == (24 << 30, "12.8")


def test_what_an_operator_may_say_about_the_policy(tmp_path: Path) -> None:
    said = "{alert_age_s: 3600, termination_lag_s: 400, max_spawns: 3, spare_share: 0.2, spare_cold_starts: 1,"
    rules = pods_file.load(write(tmp_path, f"{said} spare_most: 0.5, providers: {{local: {{}}}}}}")).policy
    assert (rules.alert_age_s, rules.termination_lag_s, rules.max_spawns) == (3600, 400, 3)
    assert (rules.spare_share, rules.spare_cold_starts, rules.spare_most) == (0.2, 1, 0.5)


def test_a_file_that_says_nothing_has_the_policys_own_defaults(tmp_path: Path) -> None:
    rules = pods_file.load(write(tmp_path, "providers: {local: {}}")).policy
    assert rules == policy.Policy()
    # A list and a destroy call may each hang for as long as the keeper lets them, and the pod be gone in time.
    assert rules.termination_lag_s >= 2 * pods_file.Watch().patience.call.total_seconds()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("providers: {local: {max_pods: 3}}", "providers.local.max_pods: Extra inputs are not permitted"),
        ("providers: {local: {max_count: 0}}", "providers.local.max_count: Input should be greater than"),
        ("providers: {docker: {offers: [{cuda_version: new}]}}", "cuda_version: String should match pattern"),
        ("cluster: -bad\nproviders: {}", "cluster: String should match pattern"),
        ("limits: {}", "providers: Field required"),
        ("providers: {runpod: {}}", "image: runpod needs the worker's image"),
        (
            "providers: {runpod: {}}\nimage: x",
            "scheduler_address: runpod needs to know how its pods reach the scheduler",
        ),
        ("providers: {local: {}}\nlimits: {min_pods: 3, max_pods: 2}", "min_pods 3 is more than max_pods 2"),
        ("providers: {local: {}}\nlimits: {usd_per_hour: .nan}", "limits.usd_per_hour: Input should be"),
        ("providers: {local: {}}\nalert_age_s: 0", "alert_age_s: Input should be greater than 0"),
        ("providers: {local: {}}\nmax_spawns: 0", "max_spawns: Input should be greater than or equal to 1"),
        ("providers: {local: {}}\nspare_most: 1", "spare_most: Input should be less than 1"),
        ("providers: {local: {}}\nspare_share: 0.3", "spare_share 0.3 is more than spare_most 0.25"),
        (
            "providers: {local: {}}\ntermination_lag_s: 9",
            "termination_lag_s 9 is less than two lists take, 10",
        ),
        ("providers: {local: {}}\ntls: {cert: a, key: b}", "tls.ca: Field required"),
        ("providers: {local: {}}\ntls: {ca: a, cert: b}", "tls: Value error, cert and key go together"),
        (
            "providers: {local: {}}\ntls: {ca: a}\nenvironment: {PODIUM_TLS_CA: /ca.pem}",
            "environment: PODIUM_TLS_CA is what tls is there for",
        ),
        ("providers: [", "is not YAML"),
        ("just words", "the file: Input should be a valid dictionary"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(pods_file.PodsFileError) as caught:
        pods_file.load(write(tmp_path, text))
    message = str(caught.value)
    assert words in message and str(tmp_path) in message and "\n" not in message


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(pods_file.PodsFileError, match="cannot be read: No such file"):
        pods_file.load(tmp_path / "none.yaml")


async def test_the_providers_that_it_names_are_made_with_credentials_from_the_settings(tmp_path: Path) -> None:
    path = write(tmp_path, FULL)
    with pytest.raises(pod_wiring.CredentialMissing, match="set PODIUM_RUNPOD_API_KEY"):
        pod_wiring.fleet(settings(path), clock.FakeClock())
    with pytest.raises(pod_wiring.CredentialMissing, match="set PODIUM_DIGITALOCEAN_TOKEN"):
        pod_wiring.fleet(settings(path, runpod_api_key="k1"), clock.FakeClock())
    fleet = pod_wiring.fleet(settings(path, runpod_api_key="k1", digitalocean_token="k2"), clock.FakeClock())
    assert fleet is not None
    assert [one.name for one in fleet.renting] == ["docker", "kubernetes", "runpod", "digitalocean"]
    assert "k1" not in repr(fleet) and "k2" not in repr(fleet)
    await fleet.close()
    assert pod_wiring.fleet(settings(None), clock.FakeClock()) is None


TLS = """
scheduler_address: scheduler.example.com:443
providers: {{local: {{folder: {folder}/pods}}}}
tls: {{ca: {folder}/ca.pem, cert: {folder}/cert.pem, key: {folder}/key.pem}}
"""


async def test_pods_get_the_contents_of_the_tls_files_that_it_names(tmp_path: Path) -> None:
    authority = trustme.CA()
    own = authority.issue_cert("pod.example")
    pems = {"ca": authority.cert_pem, "cert": own.cert_chain_pems[0], "key": own.private_key_pem}
    path = write(tmp_path, TLS.format(folder=tmp_path))
    with pytest.raises(pods_file.PodsFileError, match=r"tls.ca: .*ca.pem: cannot be read: No such file"):
        pod_wiring.fleet(settings(path), clock.FakeClock())
    for name, pem in pems.items():
        pem.write_to_path(tmp_path / f"{name}.pem")
    fleet = pod_wiring.fleet(settings(path), clock.FakeClock())
    assert fleet is not None
    wanted = records.NewPod(uuid.UUID(int=1), "podium-1", "local", "", 0, Decimal(0))
    (pod,) = await PodLedgerModel(clock.FakeClock()).intend([wanted])
    order = fleet.order(pod, "a token")
    handed = {name: value for name, value in order.environment.items() if name.startswith("PODIUM_TLS_")}
    assert handed == {f"PODIUM_TLS_{name.upper()}_PEM": pem.bytes().decode() for name, pem in pems.items()}
    secret = own.private_key_pem.bytes().decode().splitlines()[1]
    assert secret not in repr(fleet) and secret not in repr(order)
    await fleet.close()
    (tmp_path / "key.pem").write_text(secret)
    with pytest.raises(pods_file.PodsFileError, match=r"tls.key: .*key.pem: is no PEM$"):
        pod_wiring.fleet(settings(path), clock.FakeClock())


def test_what_podium_up_writes_is_a_good_file_without_secrets(tmp_path: Path) -> None:
    tokens = Credentials("app-token", "internal-token", "join-token", "operator-token")
    made = Environments(StackOptions(tmp_path, workers=0, pods=2), tokens, "postgresql://x/y", "redis://x", {})
    path = Path(made.scheduler()["PODIUM_PODS"])
    plan = pods_file.load(path)
    assert plan.providers.local is not None
    assert (plan.providers.local.max_count, plan.policy.limits.max_pods, plan.policy.limits.min_pods) == (2, 2, 0)
    assert plan.providers.local.folder == tmp_path / "pods"
    assert "token" not in path.read_text()
    without = Environments(StackOptions(tmp_path), tokens, "postgresql://x/y", "redis://x", {"PODIUM_PODS": "x"})
    assert "PODIUM_PODS" not in without.scheduler()


def test_pods_need_tokens(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="PODIUM_PODS needs tokens"):
        SchedulerSettings(postgres_url="postgresql://x/y", redis_url="redis://x", insecure=True, pods=tmp_path)
