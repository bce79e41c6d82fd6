"""What is in deploy/: units, rules and a dashboard, held against the commands and what /metrics says."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families
from twisted.scripts._twistd_unix import ServerOptions
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.faults.load import get, post
from tests.faults.rig import ROOT, Rig

UNITS = ROOT / "deploy/systemd"
RULES = ROOT / "deploy/prometheus/zpipeline-rules.yml"
RULES_TEST = ROOT / "tests/data/zpipeline-rules-test.yml"
DASHBOARD = ROOT / "deploy/grafana/zpipeline.json"
TWISTD = "/opt/zpipeline/bin/twistd"

#: Labels that Prometheus adds.
ADDED = {"job", "instance"}


def settings(unit: Path) -> dict[str, str]:
    """What is set in a unit."""
    return dict(re.findall(r"^(\w+)=(.*)$", unit.read_text(), re.MULTILINE))


class UnitTests(SynchronousTestCase):
    def options(self, unit: str) -> tuple[dict[str, str], Any]:
        """The settings of a unit, and the options of its command."""
        found = settings(UNITS / unit)
        command = found["ExecStart"].replace("%i", "4445").replace("${STATE_DIRECTORY}", "/var/lib/x").split()
        self.assertEqual(command[0], TWISTD)
        self.assertRegex(command[-1], r"^\$ZPIPE_\w+_OPTIONS$")
        options = ServerOptions()
        options.parseOptions(command[1:-1])
        return found, options

    def test_the_web_side_is_started_with_options_that_it_has(self) -> None:
        found, options = self.options("zpipe-web.service")
        self.assertEqual((options.subCommand, options.subOptions["journal"]), ("zpipe-web", "/var/lib/x/jobs.sqlite"))
        self.assertTrue(options.subOptions.in_foreground)
        self.assertEqual(found["Type"], "notify")

    def test_a_worker_is_started_on_the_port_that_its_instance_is(self) -> None:
        found, options = self.options("zpipe-worker@.service")
        self.assertEqual((options.subCommand, options.subOptions["port"]), ("zpipe-worker", 4445))
        self.assertEqual(found["Type"], "notify")

    def test_each_has_time_to_drain(self) -> None:
        for unit in ("zpipe-web.service", "zpipe-worker@.service"):
            found, options = self.options(unit)
            self.assertGreaterEqual(float(found["TimeoutStopSec"]), options.subOptions["drain"] + 5)

    def test_systemd_understands_them(self) -> None:
        program = shutil.which("systemd-analyze")
        if program is None:
            raise SkipTest("systemd-analyze is not installed")
        with TemporaryDirectory() as folder:
            for unit in UNITS.iterdir():
                text = unit.read_text().replace(TWISTD, sys.executable)  # a program that there is here
                (Path(folder) / unit.name).write_text(text)
            units = sorted(map(str, Path(folder).iterdir()))
            done = subprocess.run([program, "verify", *units], capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stderr), (0, ""))


class MetricTests(SynchronousTestCase):
    """Names and labels in rules and dashboard are those of a pipeline that runs."""

    def exposed(self) -> dict[str, set[str]]:
        """The labels of each sample that /metrics has, by name."""
        with Rig() as rig:
            worker = rig.worker()
            web = rig.web([worker.port])
            rig.until_ready(web, 1)
            job_id = json.loads(post(web.port, b"")[2])["id"]
            rig.until_all_ran([job_id])
            status, _, text = get(web.port, "/metrics")
            self.assertEqual(status, 200)
        found: dict[str, set[str]] = {}
        for family in text_string_to_metric_families(text.decode()):
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
        return found

    def test_each_metric_and_label_of_the_rules_and_the_dashboard_is_exposed(self) -> None:
        exposed = self.exposed()
        expressions = [*rule_expressions(), *dashboard_expressions()]
        self.assertGreater(len(expressions), 20)
        for expression in expressions:
            used = dict(selectors(expression))
            self.assertTrue(used, expression)
            known = set().union(*(exposed.get(name, set()) for name in used)) | ADDED
            for name, labels in used.items():
                self.assertIn(name, exposed, expression)
                self.assertLessEqual(labels, exposed[name] | ADDED, expression)
            grouped = {label for group in re.findall(r"\bby \(([^)]*)\)", expression) for label in group.split(", ")}
            self.assertLessEqual(grouped, known, expression)

    def test_reasons_outcomes_and_causes_in_rules_are_ones_that_there_are(self) -> None:
        with Rig() as rig:
            text = get(rig.web([1]).port, "/metrics")[2].decode()
        there = set(re.findall(r'(?:reason|outcome|cause)="(\w+)"', text))
        for expression in rule_expressions():
            for values in re.findall(r'(?:reason|outcome|cause)=~?"([^"]*)"', expression):
                self.assertLessEqual(set(values.split("|")), there)

    def test_each_alert_says_how_grave_it_is_and_what_to_do(self) -> None:
        for rule in rules():
            self.assertIn(rule["labels"]["severity"], ("warning", "critical"))
            self.assertEqual(set(rule["annotations"]), {"summary", "description"})
            self.assertIn(rule["alert"], (ROOT / "docs/operating.rst").read_text())

    def promtool(self, *arguments: object) -> None:
        """Run it; it finds nothing wrong."""
        program = shutil.which("promtool")
        if program is None:
            raise SkipTest("promtool is not installed")
        done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_promtool_understands_the_rules(self) -> None:
        self.promtool("check", "rules", RULES)

    def test_alerts_fire_on_what_they_are_for_and_on_nothing_else(self) -> None:
        self.promtool("test", "rules", RULES_TEST)

    def test_each_alert_fires_in_a_test(self) -> None:
        tests = [
            test for group in yaml.safe_load(RULES_TEST.read_text())["tests"] for test in group["promql_expr_test"]
        ]
        fired = {sample["labels"] for test in tests for sample in test["exp_samples"]}
        names = {name for labels in fired for name in re.findall(r'alertname="(\w+)"', labels)}
        self.assertEqual(names, {rule["alert"] for rule in rules()})


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def rule_expressions() -> list[str]:
    return [rule["expr"] for rule in rules()]


def dashboard_expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def selectors(expression: str) -> Iterator[tuple[str, set[str]]]:
    """The metrics in an expression, each with the labels that it is selected by."""
    for name, labels in re.findall(r"\b((?:zpipeline|process)_\w+)(?:\{([^}]*)\})?", expression):
        yield name, set(re.findall(r'(\w+)(?:=~|!~|!=|=)"', labels))
