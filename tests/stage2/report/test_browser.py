"""The page in a real browser: it loads, sorts, filters, brushes, turns dark and fits a phone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stage2.report.page import report
from stage2.results.banks import banks_of
from stage2.results.measured import measured
from stage2.results.results import Results
from stage2.results.store import Store
from tests.stage2.report.chromium import load, wait, width
from tests.stage2.report.conftest import HARMFUL


@pytest.fixture(scope="module")
def page(browser: Any, results: Path) -> Any:
    """The browser with the page open and every plot drawn."""
    with Store(results) as store:
        report(Results(store), results.parent / "report.html")
    width(browser, 1280)
    load(browser, results.parent / "report.html")
    return browser


@pytest.fixture
def fresh(page: Any) -> Any:
    """The page as it was opened: no filter, brush, highlight or order."""
    page.execute_script("""
      state.sort = { key: 'rank', down: false };
      if (state.tests.length || state.brushes.size || state.picked.size) $('clear').click();
      else drawTable();
    """)
    return page


def column(browser: Any, key: str) -> list[str]:
    """Cells of a column of the leaderboard, as they stand; of the first one the ids."""
    script = """
      const heads = [...document.querySelectorAll('#table thead th')];
      const place = heads.findIndex((th) => th.dataset.key === arguments[0]);
      return [...document.querySelectorAll('#table tbody tr')].map((tr) =>
        place ? tr.children[place].firstChild.textContent : tr.querySelector('small').textContent);
    """
    return browser.execute_script(script, key)


def count(browser: Any) -> str:
    """The line that tells how many configurations are shown."""
    return browser.execute_script("return $('count').textContent")


def query(browser: Any, text: str) -> None:
    """Type into the filter, and wait until it is looked at."""
    before = count(browser)
    field = browser.find_element("id", "query")
    field.clear()
    field.send_keys(text)
    wait(browser, lambda: count(browser) != before)


def test_it_loads_in_silence(page: Any) -> None:
    """No error on the console, no request but the file itself, no name that became code."""
    log = page.get_log("browser")
    assert not [line for line in log if line["level"] == "SEVERE"], log
    messages = [json.loads(line["message"])["message"] for line in page.get_log("performance")]
    asked = [
        m["params"]["request"]["url"]
        for m in messages
        if m["method"] == "Network.requestWillBeSent"
    ]
    own = ("file:", "data:", "blob:", "chrome:", "chrome-untrusted:")  # and the browser's new tab
    outside = [url for url in asked if not url.startswith(own)]
    assert not outside, outside
    assert not page.execute_script("return window.injected")
    assert HARMFUL in page.find_element("id", "leaderboard").text
    plots = page.execute_script(
        "return [...document.querySelectorAll('.plot')].map((p) => "
        "[p.closest('figure').dataset.title, Boolean(p.querySelector('.main-svg')), "
        "p.getAttribute('aria-label')])"
    )
    assert len(plots) == 21, plots
    for name, drawn, caption in plots:
        assert drawn, name
        assert len(caption) > 80, f"{name}: {caption}"
    assert "Not shown" not in page.find_element("id", "missing").text


def test_the_protocol_and_the_citations_stand_on_it(page: Any, store: Store) -> None:
    """Reference: the protocol line of the leaderboard."""
    assert Results(store).board.protocol in page.find_element("id", "protocol").text
    assert "@inproceedings{kang2020decoupling" in page.find_element("id", "bibtex").text
    assert not page.find_element("id", "warning").is_displayed()


def test_columns_sort_by_keyboard(fresh: Any) -> None:
    """Reference: Python's order of the cells; ``aria-sort`` names the column that orders."""
    assert column(fresh, "rank")[:3] == ["1", "2", "3"]
    for key, presses, falling in (("few", 1, True), ("few", 1, False), ("ece", 1, False)):
        head = fresh.find_element("css selector", f"#table th[data-key='{key}']")
        for _ in range(presses):
            head.find_element("tag name", "button").send_keys("\ue007")  # Enter
        cells = [float(text) for text in column(fresh, key)]
        assert cells == sorted(cells, reverse=falling), (key, cells)
        assert head.get_attribute("aria-sort") == ("descending" if falling else "ascending")
    orders = fresh.execute_script(
        "return [...document.querySelectorAll('#table th[aria-sort]')].map((th) => th.ariaSort)"
    )
    assert sum(order != "none" for order in orders) == 1


def test_the_filter_narrows_table_and_plots(fresh: Any) -> None:
    """Reference: the grid of the fixture: 12 of crt, of which 6 have an lr below 0.1."""
    assert count(fresh) == "21 configurations"
    query(fresh, "crt lr<0.1")
    assert count(fresh) == "6 of 21 configurations by filter"
    assert all(name.startswith("crt-") for name in column(fresh, "name"))
    shown = fresh.execute_script(
        "return document.querySelector('[data-plot=groups] .plot').data[0].customdata"
    )
    assert shown == column(fresh, "name")[:1]
    query(fresh, "weigth<1")
    assert count(fresh) == "There is no column and no varied setting “weigth”."


def test_brushing_narrows_table_and_plots(fresh: Any) -> None:
    """A drag along the last axis, the metric that ranks, keeps its upper half; a button frees."""
    from selenium.webdriver.common.action_chains import ActionChains

    axis = fresh.find_elements("css selector", ".axis-brush .background")[-1]
    fresh.execute_script(
        "arguments[0].scrollIntoView({ block: 'center', behavior: 'instant' })", axis
    )
    half = axis.size["height"] // 2
    chain = ActionChains(fresh, duration=50).move_to_element_with_offset(axis, 0, -half + 4)
    chain.click_and_hold().move_by_offset(0, half // 2).move_by_offset(
        0, half // 2
    ).release().perform()
    wait(fresh, lambda: "by 1 brush" in count(fresh))
    kept = column(fresh, "selection")
    low, high = fresh.execute_script(
        "return document.querySelector('[data-plot=parallel] .plot')"
        ".data[0].dimensions.at(-1).constraintrange"
    )
    all_of = fresh.execute_script("return DATA.rows.map((row) => row.values.selection[0])")
    assert 0 < len(kept) < 21
    assert len(kept) == sum(low <= value <= high for value in all_of)
    bars = fresh.execute_script(
        "return document.querySelector('[data-plot=groups] .plot').data[0].x.length"
    )
    assert bars == len({name.rpartition("-")[0] for name in column(fresh, "name")})
    fresh.find_element("id", "unbrush").click()
    assert count(fresh) == "21 configurations"


def test_ticked_rows_stand_out_in_the_plots(fresh: Any) -> None:
    """Others fade in the bars, the line is thick in the curves, the row is looked into."""
    name = [name for name in column(fresh, "name") if name.startswith("glag-")][-1]  # not the best
    box = fresh.find_element("css selector", f"input[aria-label='Highlight {name}']")
    box.send_keys(" ")
    assert count(fresh) == "21 configurations · 1 highlighted"
    bars = fresh.execute_script(
        "const bars = document.querySelector('[data-plot=groups] .plot').data[0];"
        "return [bars.customdata, bars.marker.opacity]"
    )
    assert {bar: alpha for bar, alpha in zip(*bars, strict=True) if alpha == 1}.keys() == {name}
    assert fresh.execute_script("return $('after').value") == name
    widths = fresh.execute_script(
        "return document.querySelector('[data-plot=shift] .plot').data.map((t) => t.line.width)"
    )
    assert sorted(widths)[-2] < sorted(widths)[-1]


def test_one_setting_marks_what_val_selects(fresh: Any) -> None:
    """Reference: the data of the page: of each lr of crt the first ranked, and the first of all."""
    data = fresh.execute_script("""
      $('single-recipe').value = 'crt';
      $('single-recipe').dispatchEvent(new Event('change'));
      $('single-setting').value = 'lr';
      $('single-setting').dispatchEvent(new Event('change'));
      const plot = document.querySelector('[data-plot=single] .plot');
      return [plot.data[0].x, plot.data[0].y, plot.layout.shapes[0].x0,
        DATA.rows.filter((row) => row.name === 'crt')
          .map((row) => [setting(row, 'lr'), value(row, 'macro')])];
    """)
    x, y, marked, rows = data
    first: dict[float, float] = {}
    for lr, macro in rows:
        first.setdefault(lr, macro)
    assert (x, y) == (sorted(first), [first[lr] for lr in sorted(first)])
    assert marked == rows[0][0]


def test_many_values_share_cells_of_the_heat_map(fresh: Any) -> None:
    """Reference: 12 ranges as wide as each other, of logarithms where numbers span a factor of 20;
    few values, and texts, have a cell each."""
    script = """
      const of = cellsOf(arguments[0]);
      return [of.names.length, arguments[0].map(of.place), of.names[0]];
    """
    few = [0.1, 0.01, 0.1, None]
    assert fresh.execute_script(script, few) == [2, [1, 0, 1, -1], "0.01"]
    many = np.logspace(-4, 0, 500)
    count, places, name = fresh.execute_script(script, many.tolist())
    edges = np.logspace(-4, 0, 13)
    assert (count, name) == (12, "0.0001–0.00022")
    expected = np.clip(np.searchsorted(edges, many, side="right") - 1, 0, 11)
    assert (np.abs(np.array(places) - expected) <= 1).all(), "an edge may fall to either side"
    assert (np.array(places) == expected).mean() > 0.99
    linear = np.linspace(1, 2, 121)
    _, places, _ = fresh.execute_script(script, linear.tolist())
    np.testing.assert_allclose(np.bincount(places), 10, atol=1.5)


def test_colours_do_not_stretch_what_val_cannot_tell_apart(fresh: Any) -> None:
    """Reference: twice the distance from the best to the last that ties with it."""
    low, high, cells, tied = fresh.execute_script("""
      const { zmin, zmax, z } = document.querySelector('[data-plot=heat] .plot').data[0];
      return [zmin, zmax, z.flat(), DATA.rows.filter((row) => row.tied)
        .map((row) => row.values.selection[0])];
    """)
    known = [cell for cell in cells if cell is not None]
    assert high == max(known)
    spread = max(tied) - min(tied)
    assert high - low == pytest.approx(max(high - min(known), 2 * spread, 1))


def test_a_column_that_many_lead_has_no_bold_figure(fresh: Any) -> None:
    """Reference: at most three that look the same; the lowest where lower is better."""
    script = "return arguments[0].map(([values, less]) => bestOf(values, less, 1))"
    cases = [[[99.96, 100, 100, 100, 3], False], [[100, 99, 100, 100], False], [[2, None, 1], True]]
    assert fresh.execute_script(script, cases) == [None, 100, 1]


def test_whiskers_end_at_100(fresh: Any) -> None:
    """Reference: shares cannot pass 0 and 100."""
    script = """
      const { array, arrayminus } = whiskers([{ values: { macro: [98, 5] } },
        { values: { macro: [1, 3] } }, { values: { macro: [50, null] } }], "macro", "black");
      return [array, arrayminus];
    """
    assert fresh.execute_script(script) == [[2, 3, 0], [5, 1, 0]]


def test_some_lines_stand_for_many(fresh: Any) -> None:
    """Reference: all of few; of 2,000 the first 60 and others evenly over the ranks."""
    script = """
      const rows = Array.from({ length: arguments[0] }, (_, place) => ({ id: String(place) }));
      return drawnOf(rows).map((row) => Number(row.id));
    """
    assert fresh.execute_script(script, 300) == [*range(300)]
    drawn = fresh.execute_script(script, 2000)
    assert drawn[:60] == [*range(60)]
    assert 280 <= len(drawn) <= 310
    assert max(np.diff(drawn)) <= 10
    assert drawn[-1] > 1980


def test_menus_name_settings(fresh: Any) -> None:
    """Reference: the settings of the leaderboard's lines; ids stay the values."""
    options, rows = fresh.execute_script("""
      return [[...$('after').options].map((each) => [each.value, each.text]), DATA.rows];
    """)
    by_id = {row["id"]: row for row in rows}
    for id_, text in options:
        row = by_id[id_]
        assert text.startswith(f"{row['name']} · {row['changes'] or 'usual settings'} · val macro ")
        assert id_ not in text or row["name"] == HARMFUL


def test_one_violin_for_two(fresh: Any) -> None:
    """Reference: the histograms of both configurations: mean confidence and accuracy by group."""
    marks, details = fresh.execute_script("""
      const plot = document.querySelector('[data-plot=versus] .plot');
      return [plot.data.filter((trace) => trace.mode === 'markers').map((trace) => trace.y[0]),
        [state.before, state.after].map((id) => DATA.details[id].confidence)];
    """)
    expected = []
    for groups in np.asarray(details, float):
        for wrong, right in groups:
            middles = 100 * (np.arange(len(wrong)) + 0.5) / len(wrong)
            rows = wrong + right
            expected += [(rows * middles).sum() / rows.sum(), 100 * right.sum() / rows.sum()]
    np.testing.assert_allclose(marks, expected)


def test_plots_have_their_numbers_as_tables(fresh: Any) -> None:
    """Reference: accuracy by class in the page's data, eight classes, largest first."""
    fresh.execute_script("document.querySelector('[data-plot=classes] details').open = true")
    rows = wait(
        fresh,
        lambda: fresh.execute_script(
            "return [...document.querySelectorAll('[data-plot=classes] details tbody tr')]"
            ".map((tr) => [...tr.children].map((cell) => cell.textContent))"
        ),
    )
    assert len(rows) == 8
    assert rows[0][:2] == [HARMFUL, "150"]
    best = fresh.execute_script("return DATA.details[state.after].per_class")
    assert [float(row[3]) for row in rows] == best


def test_the_theme_turns_and_plots_follow(fresh: Any) -> None:
    """The ground of page and plots darkens; the system's wish decides at first."""
    script = """
      const of = (e) => getComputedStyle(e).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number);
      return [Math.max(...of(document.body)),
        document.querySelector('[data-plot=groups] .plot')._fullLayout.paper_bgcolor];
    """
    light = fresh.execute_script(script)
    fresh.find_element("id", "theme").send_keys("\ue007")  # Enter
    assert light[0] > 240
    dark = fresh.execute_script(script)
    assert dark[0] < 60
    assert light[1] != dark[1]
    fresh.find_element("id", "theme").send_keys("\ue007")
    assert fresh.execute_script(script) == light
    wish = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    fresh.execute_cdp_cmd("Emulation.setEmulatedMedia", wish)
    wait(fresh, lambda: fresh.execute_script("return theme()") == "dark")
    wish["features"][0]["value"] = "light"
    fresh.execute_cdp_cmd("Emulation.setEmulatedMedia", wish)
    wait(fresh, lambda: fresh.execute_script("return theme()") == "light")


def test_it_fits_a_phone(fresh: Any) -> None:
    """At 375 pixels the page does not scroll sideways; tables and wide plots do, in boxes."""
    width(fresh, 375)
    try:
        wait(
            fresh,
            lambda: fresh.execute_script("return document.documentElement.clientWidth") == 375,
        )
        size = fresh.execute_script("return document.documentElement.scrollWidth")
        assert size <= 375, f"got {size}"
        ranking = fresh.find_element("css selector", "#table td:nth-of-type(2)")
        edge = fresh.execute_script(
            "return arguments[0].getBoundingClientRect().right "
            "- arguments[0].closest('.scroll').getBoundingClientRect().left",
            ranking,
        )
        assert edge <= 375 - 32, "the column that ranks is seen without scrolling"
        outside = fresh.execute_script(
            "return [...document.querySelectorAll('main *')].filter((e) => "
            "!e.closest('.scroll, pre, svg') && e.getBoundingClientRect().right > 376)"
            ".map((e) => e.outerHTML.slice(0, 80))"
        )
        assert not outside, outside
    finally:
        width(fresh, 1280)


def test_paper_is_light_and_plots_fit_a_sheet(fresh: Any) -> None:
    """Before printing plots take the width of a page, light; afterwards all is as it was."""
    script = """
      const plot = document.querySelector('[data-plot=groups] .plot');
      return [theme(), plot._fullLayout.width];
    """
    fresh.execute_script("setTheme('dark', false)")
    before = fresh.execute_script(script)
    fresh.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert fresh.execute_script(script) == ["light", 680]
    fresh.execute_script("dispatchEvent(new Event('afterprint'))")
    assert fresh.execute_script(script) == before
    assert before[1] > 1000
    fresh.execute_script("setTheme('light', false)")


def test_selection_on_test_is_printed(page: Any, results: Path) -> None:
    """A warning above the numbers, besides the protocol line."""
    with Store(results) as store:
        report(
            Results(store, select_on="test"), results.parent / "on_test.html", condition="name=ce"
        )
    page.get((results.parent / "on_test.html").as_uri())
    assert page.find_element("id", "warning").text.startswith("Selected on test")
    assert "selected on test" in page.find_element("id", "protocol").text
    wait(page, lambda: page.execute_script("return document.documentElement.dataset.ready"))
    assert "parallel coordinates (fewer than three" in page.find_element("id", "missing").text
    log = page.get_log("browser")
    assert not [line for line in log if line["level"] == "SEVERE"], log


def test_a_page_of_one_bank_has_no_grid(page: Any) -> None:
    """Reference: nothing of several banks is on it."""
    assert page.execute_script("return document.getElementById('banks')") is None


def test_a_page_of_several_banks(browser: Any, several: Path, tmp_path: Path) -> None:
    """Reference: the grid and each bank's own leaderboard: the table on top has both banks, the
    rest of the page one, which select and column heads change."""
    with Store(several) as store:
        banks = banks_of(store, "r32,ResNet-50")
        report(banks, tmp_path / "banks.html")
        expected = []
        for bank in banks:
            (row,) = (r[0] for r in bank.board.best().configurations() if r[0]["name"] == "crt")
            crt = bank.configurations[row["recipe"]]
            expected.append(measured(bank, crt, bank.board.terms.epoch).details)
    width(browser, 1280)
    browser.get((tmp_path / "banks.html").as_uri())
    ready = "return document.documentElement.dataset.ready"
    wait(browser, lambda: browser.execute_script(ready))
    heads = "return [...document.querySelectorAll('#grid thead th')].map((th) => th.textContent)"
    assert browser.execute_script(heads) == ["recipe", "r32", "ResNet-50"]
    cells = "return [...document.querySelectorAll('#grid tbody tr')].map((tr) => tr.innerText)"
    assert len(browser.execute_script(cells)) == 3
    assert set(column(browser, "name")) == {*banks[0].configurations}
    before = browser.execute_script(cells)
    browser.execute_script(
        "$('grid-metric').value = 'ece'; $('grid-metric').dispatchEvent(new Event('change'))"
    )
    assert browser.execute_script(cells) != before
    browser.find_elements("css selector", "#grid thead button")[1].click()
    wait(browser, lambda: "?bank=1" in browser.current_url and browser.execute_script(ready))
    assert browser.execute_script("return $('bank').textContent").startswith("Bank ResNet-50 · ")
    assert browser.execute_script("return $('shown-bank').value") == "1"
    drawn = """
      $('grid-recipe').value = 'crt';
      $('grid-recipe').dispatchEvent(new Event('change'));
      return ['bank-reliability', 'bank-norms'].map((name) =>
        document.querySelector(`[data-plot=${name}] .plot`).data);
    """
    reliability, norms = browser.execute_script(drawn)
    for place, (bank, arrays) in enumerate(zip(banks, expected, strict=True)):
        shown = [value for value in reliability[2 * place]["y"] if value is not None]
        accuracy = arrays["reliability"][2]
        np.testing.assert_allclose(shown, accuracy[np.isfinite(accuracy)], atol=6e-3)
        order = np.argsort(-bank.counts, kind="stable")
        np.testing.assert_allclose(norms[place]["y"], arrays["weight_norm"][order], atol=1e-4)
    assert banks[1].fingerprint[:12] in browser.execute_script("return $('protocol').textContent")
    width(browser, 390)
    wide = "return document.documentElement.scrollWidth <= innerWidth"
    assert browser.execute_script(wide)
    width(browser, 1280)
