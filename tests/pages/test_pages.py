"""What the pages say, of what is usual and what is not, and that nothing in them is let loose."""

import re
import sys
import xml.etree.ElementTree as ET
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import pytest

from optiinfra_db import connect, errors, seed, shapes
from optiinfra_db.generated.models import StepStatus, WorkflowStatus, WorkflowType
from optiinfra_db.pages import _templates as templates
from optiinfra_db.pages import report_page, workflow_page

from . import samples
from .samples import NOW, T0, run, span, step

VOID = {"meta", "br", "img", "link", "input"}


class Page(HTMLParser):
    """A page as it is read: fails where elements are not closed in turn."""

    def __init__(self, html):
        super().__init__()
        self.open, self.elements, self.words, self.ids = [], [], [], []
        self.feed(html)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if "id" in dict(attrs):
            self.ids.append(dict(attrs)["id"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    def count(self, tag):
        return sum(name == tag for name, _ in self.elements)

    def of_class(self, name):
        return [tag for tag, attrs in self.elements if name in (attrs.get("class") or "").split()]


def svgs(html):
    return [ET.fromstring(text) for text in re.findall(r"<svg.*?</svg>", html, re.DOTALL)]


def words_of(svg):
    return ["".join(text.itertext()) for text in svg.iter("{http://www.w3.org/2000/svg}text")]


def fills(svg):
    return {element.get("fill") for element in svg.iter()}


def page_of(run, **values):
    return workflow_page(run, now=NOW, **values)


RUNS = {
    "failed": samples.failed_run(),
    "nasty": samples.nasty_run(),
    "empty": run(),
    "one": run([step()]),
    "many": run([step(order) for order in range(1, 231)], seconds=2300),
    "waiting": run(
        [step(spans=[], status=StepStatus.PENDING)],
        WorkflowStatus.PENDING,
        None,
        started_at=None,
        waited_seconds=None,
    ),
    "running": run(
        [step(spans=[span("running", 1, 0, None)], status=StepStatus.RUNNING)],
        WorkflowStatus.RUNNING,
        None,
    ),
}
REPORTS = {
    "full": samples.full_report(),
    "nasty": samples.nasty_report(),
    "empty": samples.report(),
    "year": samples.full_report(days=365),
    "hours": samples.report(
        period_seconds=3600,
        periods=samples.periods([(1, 0, 0, 0)] * 48, timedelta(hours=1)),
    ),
}
PAGES = {f"run-{name}": (lambda one=one: page_of(one)) for name, one in RUNS.items()} | {
    f"report-{name}": (lambda one=one: report_page(one)) for name, one in REPORTS.items()
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole_and_alone(name):
    html = PAGES[name]()
    page = Page(html)
    assert html.startswith('<!doctype html>\n<html lang="en">')
    assert [page.count(tag) for tag in ("title", "h1", "main", "header", "footer")] == [1] * 5
    assert len(page.ids) == len(set(page.ids))
    assert "default-src 'none'" in html
    assert not {"script", "link", "img", "iframe", "image", "use", "a"} & {
        tag for tag, _ in page.elements
    }
    for _, attrs in page.elements:
        assert not {name for name in attrs if name.startswith("on") or name in {"src", "href"}}
        assert not any("url(" in (value or "") for key, value in attrs.items() if key != "title")
    for svg in svgs(html):
        assert svg.get("viewBox")


@pytest.mark.parametrize("name", PAGES)
def test_the_same_makes_the_same_page(name):
    assert PAGES[name]() == PAGES[name]()


def test_each_chart_has_a_name_and_two_sizes():
    html = report_page(REPORTS["full"])
    page = Page(html)
    figures = [attrs for tag, attrs in page.elements if tag == "figure"]
    assert len(figures) == 8
    assert len({attrs["aria-label"] for attrs in figures}) == 8
    assert len(svgs(html)) == 16
    assert {int(svg.get("viewBox").split()[2]) for svg in svgs(html)} == {340, 680}


# A run


def test_a_failed_run_is_told_whole():
    told = ["optiinfra-db workflows retry 0195", "It waits."]
    html = page_of(samples.failed_run(), advice=told)
    text = Page(html).text
    for words in (
        "Cost analysis failed",
        "For Atlas Robotics , by cost-1",
        "Steps done 2 of 5",
        "Waited 3.0s",
        "Took 11m 0s",
        "Attempt 2 2 retries of steps",
        "Step 3, simulate_rightsizing",
        "PricingUnavailable",
        "no price for p5.48xlarge in eu-north-1 after 3 attempts",
        "Input of the step",
        '"instance": "p5.48xlarge"',
        'File "simulate.py", line 88',
        "3 of 5 steps ran. The longest, step 2, ran for 2m 28s. Steps were tried again 2 times.",
        "3 simulate_rightsizing failed 3 2 of 3 2026-03-02 09:09:37Z 3m 5s 1m 23s",
        "simulate_rightsizing 2 2026-03-02 09:06:32Z 1m 5s retrying pricing API did not answer",
        "report.md report 48.2 kB ab12ab12ab12… s3://reports/atlas/report.md",
        "spot migration pending high $18,400.00 1.4\u00d7 92.0%",
        "this one failed",
        "2026-03-02 09:01:30Z 1m 33s Artifact usage.csv",
        "Step 3 simulate_rightsizing failed 3 1m 23s cost-agent",
        "Retry of",
        "Deadline 2026-03-02 10:00:00Z",
        '"trigger": "schedule"',
    ):
        assert words in text
    assert "<li> <code>optiinfra-db workflows retry 0195</code></li>" in html
    assert "<li>It waits.</li>" in html


def test_the_time_line_shows_each_attempt_and_its_end():
    wide, narrow = svgs(page_of(samples.failed_run()))
    for svg in (wide, narrow):
        words = words_of(svg)
        assert {"waiting", "completed", "retrying", "failed"} <= set(words)
        assert words.count("1m 23s") == 1  # of the latest attempt
        assert {"1", "2", "3"} <= set(words)
        assert {"var(--wait)", "var(--green)", "var(--yellow)", "var(--red)"} <= fills(svg)
    assert "minutes since the run started" in words_of(wide)


def test_steps_keep_the_order_of_the_plan_and_may_share_a_name():
    names = ["zeta", "alpha", "zeta", "beta"]
    html = page_of(run([step(order, name) for order, name in enumerate(names, start=1)]))
    labels = [word for word in words_of(svgs(html)[0]) if re.match(r"\d\s+[a-z]", word)]
    assert labels == ["1  zeta", "2  alpha", "3  zeta", "4  beta"]


def test_the_shortest_of_spans_is_seen_in_the_longest_of_runs():
    three_days = 3 * 86_400
    html = page_of(
        run(
            [
                step(
                    spans=[span("running", 1, three_days, three_days + 0.001, StepStatus.COMPLETED)]
                )
            ],
            seconds=three_days + 0.001,
        )
    )
    bar = next(
        e for e in svgs(html)[0].iter() if e.get("fill") == "var(--green)" and "L" in e.get("d")
    )
    xs = [float(x) for x in re.findall(r"[ML](-?[\d.]+),", bar.get("d"))]
    assert max(xs) - min(xs) > 0.5
    assert "days since the run started" in words_of(svgs(html)[0])


@pytest.mark.parametrize(
    ("seconds", "unit"),
    [(0.0, "milliseconds"), (0.5, "milliseconds"), (60.0, "seconds"), (9000.0, "hours")],
)
def test_the_time_line_has_the_unit_of_its_length(seconds, unit):
    html = page_of(run([step(spans=[span("running", 1, 0, seconds)])], seconds=seconds))
    assert f"{unit} since the run started" in words_of(svgs(html)[0])


def test_what_lasts_is_drawn_until_now_and_paler():
    html = page_of(RUNS["running"])
    svg = svgs(html)[0]
    assert {element.get("fill-opacity") for element in svg.iter()} == {None, "0.8"}
    text = Page(html).text
    assert "Runs for 1h 0m" in text
    assert "step 1, runs for 1h 0m" in text
    assert "What still lasts is paler, and is drawn until 2026-03-02 10:00:00Z ." in text
    assert "What failed" not in text


@pytest.mark.parametrize(
    ("one", "sentence"),
    [
        (run(), "It has no steps."),
        (RUNS["waiting"], "It waits to be started."),
        (
            run([step(spans=[])], WorkflowStatus.CANCELLED, 5.0, started_at=None),
            "It was never started.",
        ),
        (
            run([step(spans=[], status=StepStatus.PENDING)], WorkflowStatus.RUNNING, None),
            "No step has run yet.",
        ),
        (
            run([step(spans=[], status=StepStatus.SKIPPED)], WorkflowStatus.CANCELLED),
            "No step has run.",
        ),
        (RUNS["one"], "1 of 1 step ran."),
        (run([step(retry_count=1)]), "Steps were tried again once."),
    ],
)
def test_a_sentence_says_how_far_it_came(one, sentence):
    assert sentence in Page(page_of(one)).text


def test_a_run_without_time_or_steps_has_no_chart():
    assert svgs(page_of(RUNS["waiting"])) == []
    assert svgs(page_of(run())) == []
    assert svgs(page_of(run([step(spans=[], status=StepStatus.SKIPPED)]))) == []
    assert "still waits" in page_of(RUNS["waiting"])
    assert "not started" in page_of(RUNS["waiting"])


def test_of_many_steps_the_first_are_drawn_and_all_are_told():
    html = page_of(RUNS["many"])
    assert "The first 200 steps are drawn." in html
    assert words_of(svgs(html)[0]).count("200  collect") == 1
    assert "201  collect" not in words_of(svgs(html)[0])
    assert ">230</td>" in html


def test_a_long_history_is_folded():
    entries = [samples.entry("workflow_step", "running", "a", 1, after=n) for n in range(41)]
    assert "<summary>All 41 entries</summary>" in page_of(run(timeline=entries))
    assert "<summary>All" not in page_of(run(timeline=entries[:40]))


def test_a_run_may_fail_without_a_step():
    html = page_of(run([step()], WorkflowStatus.FAILED, 9.0, error_details={"code": 137}))
    text = Page(html).text
    assert "What failed The run" in text
    assert '"code": 137' in text
    assert "Input of the run" not in text


def test_the_input_of_the_run_stands_in_for_that_of_the_step():
    failed = step(status=StepStatus.FAILED, error_details={"message": "no"})
    html = page_of(run([failed], WorkflowStatus.FAILED, input_data={"window": "30d"}))
    assert "Input of the run" in html


def test_an_error_that_is_no_message_is_shown_as_json():
    html = page_of(run(timeline=[samples.entry("other", "failed", error={"code": 7})]))
    assert 'other failed 1 cost-agent { "code": 7 }' in Page(html).text


def test_a_large_payload_is_cut_and_says_where_all_of_it_is():
    html = page_of(run([step(output_data={"x": "y" * 1_000_000})]))
    assert len(html) < 100_000
    text = Page(html).text
    assert "980,013 more characters follow." in text
    assert f"optiinfra-db workflows show {samples.uid(1)} --json" in text


def test_the_end_of_a_traceback_is_what_is_kept():
    error = {"message": "no", "traceback": "begin" + "-" * 30_000 + "the end"}
    text = Page(page_of(run([], WorkflowStatus.FAILED, error_details=error))).text
    assert "the end 10,012 more characters before these." in text


def test_a_payload_nested_too_deeply_does_not_break_the_page():
    value = []
    for _ in range(sys.getrecursionlimit() * 2):
        value = [value]
    assert templates.as_json(value) == "It is nested too deeply to be shown."


# What is hostile


@pytest.mark.parametrize("name", ["run-nasty", "report-nasty"])
def test_nothing_that_is_shown_is_taken_for_markup(name):
    html = PAGES[name]()
    assert "<script" not in html
    assert "<img" not in html
    assert html.count("</style>") == 1
    assert "49" not in Page(html).of_class("text")
    assert "{{ 7*7 }}" in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html


@pytest.mark.parametrize("name", ["run-nasty", "report-nasty"])
def test_nothing_that_cannot_be_seen_gets_into_a_chart(name):
    for svg in svgs(PAGES[name]()):
        for word in words_of(svg):
            assert not re.search("[\u202a-\u202e\u2066-\u2069\x00-\x1f]", word)
            assert len(word) < 80


@pytest.mark.parametrize("name", ["run-nasty", "report-nasty"])
def test_names_are_cut(name):
    html = re.sub(r"<pre>.*?</pre>", "", PAGES[name](), flags=re.DOTALL)
    assert "W" * 150 in html
    assert "W" * 401 not in html


def test_text_that_turns_its_surroundings_is_escaped_in_json():
    assert templates.as_json({"a": "x\u202ey\x85\n"}) == '{\n  "a": "x\\u202ey\\u0085\\n"\n}'


# A report


def test_an_empty_report_says_that_nothing_was():
    text = Page(report_page(REPORTS["empty"])).text
    assert svgs(report_page(REPORTS["empty"])) == []
    assert text.count("No run ended in this time.") == 3
    for words in (
        "All customers 2026-03-02 09:00 to 2026-04-01 09:00 UTC",
        "Runs ended 0",
        "Failed or timed out none No run ended",
        "Savings realised $0 a month, of $0 predicted",
        "No run that was started ended in this time.",
        "No step failed in this time.",
        "No step ended in this time.",
        "There are no agents.",
        "Nothing was recommended in this time.",
    ):
        assert words in text


def test_a_report_says_its_numbers():
    text = Page(report_page(REPORTS["full"])).text
    for words in (
        "Runs ended 1,390 4 created in this time still open",
        "Failed or timed out 3.2% 30 failed, 15 timed out",
        "Median duration 5m 0s of cost analysis, the most frequent",
        "Savings realised $1,500 a month, of $3,000 predicted",
        "1,390 runs ended. The busiest day was 2026-03-15, with 51.",
        "running 4 still open",
        "Cost analysis failed or timed out most often: 7.0% of its runs.",
        "cost analysis 5m 0s 10m 0s 15m 0s 2.0s 12.0s",
        "The step simulate of cost analysis failed most often: 9 of 40 times.",
        "The step analyze of cost analysis took longest: 1h 6m.",
        "perf-1 worked longest: 1d 1h, all of its runs added up.",
        "cost-1 cost 40 39 1 0 0 2h 0m perf-1 cost 4",
        "As it was when this page was made: 2 runs were running, and 4 waited.",
        "Of $3,000 a month that agents predicted, $1,500 is realised (50.0%).",
        "Feb 2026 4 $1,000.00 $750.00 $500.00",
        "Mar 2026 Atlas Robotics perf-1 4 1 3 2 0 $1,000.00 $500.00",
    ):
        assert words in text


def test_a_report_of_a_customer_does_not_repeat_the_customer():
    html = report_page(samples.full_report(customer_id=samples.uid(2), customer="Atlas Robotics"))
    assert html.count("Atlas Robotics") == 2  # title and heading
    assert "<summary>By agent</summary>" in html
    assert "The load of agents" not in html


def test_a_year_is_summed_up_and_its_days_are_folded():
    html = report_page(REPORTS["year"])
    outside = re.sub(r"<details>.*?</details>", "", html, flags=re.DOTALL)
    assert html.count('<th scope="row" class="time">20') >= 365
    assert outside.count('class="time">20') < 20
    assert "runs ended, by week" in words_of(svgs(html)[0])
    assert "Mar 2026" in words_of(svgs(html)[0]) or "Apr 2026" in words_of(svgs(html)[0])


def test_hours_are_told_as_hours():
    html = report_page(REPORTS["hours"])
    assert "The busiest hour was 2026-03-02 09:00, with 1." in html
    assert "<summary>By hour</summary>" in html
    assert any(re.fullmatch(r"0[234] Mar \d\d:00", word) for word in words_of(svgs(html)[0]))
    assert "runs ended, by hour" in words_of(svgs(html)[0])
    short = REPORTS["hours"].model_copy(update={"periods": REPORTS["hours"].periods[:20]})
    assert any(re.fullmatch(r"\d\d:00", word) for word in words_of(svgs(report_page(short))[0]))


def test_runs_are_stacked_as_high_as_they_are_many():
    one = samples.report(periods=samples.periods([(3, 1, 0, 0), (0, 0, 0, 0), (1, 0, 0, 0)]))
    svg = svgs(report_page(one))[0]
    words = words_of(svg)
    assert {"completed", "failed"} <= set(words)
    assert "timeout" not in words
    assert [word for word in words if word.isdecimal()] == ["0", "1", "2", "3", "4"]


def test_durations_far_apart_are_on_a_logarithmic_scale():
    def title(*types):
        return [
            word
            for svg in svgs(report_page(samples.report(types=types)))
            for word in words_of(svg)
            if "scale" in word or word == "minutes"
        ]

    near = samples.type_stats()
    far = samples.type_stats(WorkflowType.HEALTH_CHECK, 0.0, 2.0, 9.0)
    assert set(title(near)) == {"minutes"}
    assert set(title(near, far)) == {"minutes, on a logarithmic scale"}


def test_none_failed_is_said():
    fine = samples.type_stats(failure_rate=0.0, failed=0, timed_out=0)
    assert "None failed." in report_page(samples.report(types=[fine]))


def test_idle_agents_have_no_chart():
    html = report_page(samples.report(agents=[samples.agent_line(running=0, pending=0)]))
    assert svgs(html) == []
    assert "0 runs were running, and 0 waited." in html
    assert "never" in Page(html).text


def test_the_busiest_of_many_agents_are_drawn():
    agents = [samples.agent_line("same", n, 0) for n in range(40)]
    html = report_page(samples.report(agents=agents))
    words = words_of(svgs(html)[0])
    assert "The 30 with the most runs are drawn." in html
    assert {"same", "same (2)", "same (30)", "39", "10"} <= set(words)
    assert "9" not in words
    stats = [samples.agent_stats("same", n + 1) for n in range(40)]
    assert "The 30 with the most runs are drawn." in report_page(samples.report(agent_stats=stats))


def test_of_very_many_savings_the_first_are_told():
    html = report_page(samples.report(savings=[samples.saving(usd=0)] * 301))
    assert "The first 300 of 301 rows." in html
    assert "Of $0 a month that agents predicted, $0 is realised." in html


# Where they come from


def test_the_sample_data_makes_pages(optiinfra_db_url):
    now = datetime.now(UTC)
    with connect(optiinfra_db_url) as conn:
        seed.seed(conn)
        keys = conn.execute(
            "SELECT customer_id, id FROM workflow_executions ORDER BY id"
        ).fetchall()
        runs = [shapes.load_workflow(conn, customer_id=one, id=run_id) for one, run_id in keys]
        report = shapes.load_report(conn, since=now - timedelta(days=30), until=now)
    assert len(runs) == 3
    for one in runs:
        text = Page(page_of(one)).text
        assert one.customer in text
        for planned in one.steps:
            assert planned.step_name in text
    assert "Indie Robotics" in Page(report_page(report)).text


def test_a_run_of_the_database_makes_a_page(optiinfra_db, make_workflow):
    made = make_workflow(status="failed", steps=["collect", ("analyze", "failed")])
    one = shapes.load_workflow(optiinfra_db, customer_id=made.customer_id, id=made.id)
    html = workflow_page(one)
    assert "What failed" in html
    assert svgs(html)


@pytest.mark.parametrize("module", ["jinja2", "vl_convert"])
@pytest.mark.parametrize(
    "make", [lambda: page_of(RUNS["one"]), lambda: report_page(REPORTS["full"])]
)
def test_without_the_extra_it_says_what_to_install(monkeypatch, module, make):
    monkeypatch.setitem(sys.modules, module, None)
    templates.environment.cache_clear()
    with pytest.raises(errors.OptiInfraError, match=r"pip install 'optiinfra-db\[html\]'"):
        make()
    templates.environment.cache_clear()


def test_times_of_other_zones_are_told_in_utc():
    at = T0.astimezone(tz=datetime.strptime("+0530", "%z").tzinfo)
    assert "2026-03-02 09:00:00Z" in page_of(run(created_at=at))
