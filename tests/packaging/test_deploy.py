"""The examples in deploy/, as far as they can be read here: what they say agrees with what the code wants."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from postman.aws_lambda import CLOSING, OPENING, keep
from postman.config import DeliveryTable, load
from postman.guard import WRITE_TIME
from postman.orders import EXIT_MARGIN

DEPLOY = Path(__file__).parents[2] / "deploy"
CLOUD_RUN_SIGTERM = 10

type Document = dict[str, Any]


class _Loader(yaml.SafeLoader):
    """Reads CloudFormation's short forms: `!Ref Notes` is `{"Ref": "Notes"}`."""


def _short_form(loader: _Loader, name: str, node: yaml.ScalarNode) -> Document:
    return {name: loader.construct_scalar(node)}


_Loader.add_multi_constructor("!", _short_form)


def read(name: str) -> Document:
    document: Document
    (document,) = yaml.load_all((DEPLOY / name).read_text(encoding="utf-8"), _Loader)
    return document


@pytest.fixture
def template() -> Document:
    return read("aws-lambda.yaml")


@pytest.fixture
def container() -> Document:
    container: Document
    (container,) = read("cloud-run.yaml")["spec"]["template"]["spec"]["containers"]
    return container


def test_the_functions_of_the_template_are_there_and_have_time_for_the_longest_call(template: Document) -> None:
    functions = [r for r in template["Resources"].values() if r["Type"] == "AWS::Serverless::Function"]
    names = [function["Properties"]["Handler"].rpartition(".") for function in functions]
    assert sorted(name for _, _, name in names) == ["clerk", "handler"]
    assert all(callable(getattr(importlib.import_module(module), name)) for module, _, name in names)
    needed = OPENING + DeliveryTable().timeout + WRITE_TIME + CLOSING
    assert template["Globals"]["Function"]["Timeout"] > needed


def test_records_are_hidden_for_six_times_the_functions_time_and_fail_one_by_one(template: Document) -> None:
    queue = template["Resources"]["Notes"]["Properties"]
    assert queue["VisibilityTimeout"] >= 6 * template["Globals"]["Function"]["Timeout"]
    assert "RedrivePolicy" not in queue
    mapping = template["Resources"]["Deliver"]["Properties"]["Events"]["Notes"]["Properties"]
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert mapping["Queue"] == {"GetAtt": "Notes.Arn"}
    schedule = template["Resources"]["Clerk"]["Properties"]["Events"]["Minute"]["Properties"]["Schedule"]
    assert schedule == "rate(1 minute)"


def test_the_queue_of_the_template_is_the_one_that_its_comment_names(
    template: Document, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (url,) = re.findall(r'url = "(sqs://[^"]+)"', (DEPLOY / "aws-lambda.yaml").read_text(encoding="utf-8"))
    config = tmp_path / "postman.toml"
    config.write_text(
        f'[ledger]\nurl = "postgresql://ann@127.0.0.1/x"\n[queue]\nurl = "{url.replace("REGION", "eu-central-1")}"\n'
        '[[provider]]\nname = "x"\nplugin = "sendgrid"\nsettings = { api-key = { env = "SENDGRID_API_KEY" } }\n'
    )
    for name in template["Globals"]["Function"]["Environment"]["Variables"]:
        monkeypatch.setenv(name, "SG.abcdefghijk.lmnopqrstuvwxyz0123456789")
    assert keep(config).queues == {f"eu-central-1:{template['Resources']['Notes']['Properties']['QueueName']}"}


def test_on_cloud_run_a_stop_is_over_before_the_process_is_killed(
    container: Document, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    comment = re.findall(r"^#   (.*)$", (DEPLOY / "cloud-run.yaml").read_text(encoding="utf-8"), re.MULTILINE)
    config = tmp_path / "postman.toml"
    config.write_text("\n".join(comment))
    for variable in container["env"]:
        monkeypatch.setenv(variable["name"], "x")
    (command,) = container["args"]
    bind = re.findall(r'--bind "([^"]+)"', command)[0].replace("$PORT", str(container["ports"][0]["containerPort"]))
    delivery = load(config, bind=bind).config.delivery
    assert delivery.grace + EXIT_MARGIN < CLOUD_RUN_SIGTERM
    assert delivery.timeout <= delivery.grace, "no call need be cut"
    assert tomllib.loads("\n".join(comment))["ledger"]["url"].startswith("postgresql:")


def test_on_cloud_run_mail_is_delivered_while_no_request_comes(container: Document) -> None:
    annotations = read("cloud-run.yaml")["spec"]["template"]["metadata"]["annotations"]
    assert int(annotations["autoscaling.knative.dev/minScale"]) >= 1
    assert annotations["run.googleapis.com/cpu-throttling"] == "false"
    assert container["command"] == ["/bin/sh", "-c"]
    assert container["args"][0].startswith("exec "), "the signal must reach us, not a shell"
    assert container["startupProbe"]["httpGet"]["path"] == "/health/ready"
    assert container["livenessProbe"]["httpGet"]["path"] == "/health/live"


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("compose.yaml", r"stop_grace_period: (\d+)s"),
        ("kubernetes.yaml", r"terminationGracePeriodSeconds: (\d+)"),
        ("postman.service", r"TimeoutStopSec=(\d+)"),
    ],
)
def test_everywhere_else_a_stop_has_time_for_the_default_grace(name: str, pattern: str) -> None:
    (seconds,) = re.findall(pattern, (DEPLOY / name).read_text(encoding="utf-8"))
    assert int(seconds) > DeliveryTable().grace + EXIT_MARGIN
