//! Results for people: a table, and a plot of latency over percentile.

use std::fmt::Write as _;

use serde_json::Value;

/// A line for each kind of answer of each result.
pub fn table(results: &[Value]) -> String {
    let mut rows = vec![
        [
            "run",
            "answers",
            "per s",
            "p50 ms",
            "p90",
            "p99",
            "p99.9",
            "max",
            "added p50",
            "added p99",
            "first p50",
            "server µs",
            "own µs",
            "failures",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    for result in results {
        let label = text(&result["label"]);
        let measured = result["measured_s"].as_f64().unwrap_or(1.0);
        let mut failures: Vec<String> =
            result["failures"].as_object().into_iter().flatten().map(|(name, count)| format!("{count} {name}")).collect();
        if result["unfinished"].as_u64().unwrap_or(0) > 0 {
            failures.push(format!("{} unfinished", result["unfinished"]));
        }
        let failures = if failures.is_empty() { "-".to_owned() } else { failures.join(", ") };
        for (class, value) in result["classes"].as_object().into_iter().flatten() {
            let latency = |name: &str| number(&value["latency_ms"][name]);
            let count = value["count"].as_f64().unwrap_or(0.0);
            rows.push(vec![
                format!("{label} {}", class.strip_suffix(" 200").unwrap_or(class)),
                text(&value["count"]),
                format!("{:.0}", count / measured),
                latency("p50"),
                latency("p90"),
                latency("p99"),
                latency("p99.9"),
                latency("max"),
                number(&value["added_ms"]["p50"]),
                number(&value["added_ms"]["p99"]),
                number(&value["first_byte_ms"]["p50"]),
                number(&result["server"]["us_per_answer"]),
                number(&result["generator"]["us_per_answer"]),
                failures.clone(),
            ]);
        }
        if result["classes"].as_object().is_none_or(serde_json::Map::is_empty) {
            rows.push(vec![label, "0".to_owned(), "0".to_owned(), failures]);
        }
    }
    aligned(&rows)
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn number(value: &Value) -> String {
    value
        .as_f64()
        .map_or_else(|| "-".to_owned(), |value| if value.abs() < 100.0 { format!("{value:.2}") } else { format!("{value:.0}") })
}

fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            let space = " ".repeat(widths[column] - cell.chars().count());
            // Names to the left, numbers to the right.
            let _ = if column == 0 { write!(out, "{cell}{space}") } else { write!(out, "  {space}{cell}") };
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
    }
    out
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 60.0;
const BOTTOM: f64 = 40.0;
const TOP: f64 = 20.0;
const RIGHT: f64 = 220.0;
/// Colours that are told apart in print and by colour-blind people (Okabe and Ito 2008).
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];

/// Latency over percentile, both logarithmic, a line for each kind of answer: SVG.
pub fn plot(results: &[Value]) -> String {
    let mut lines: Vec<(String, Vec<(f64, f64)>)> = Vec::new();
    for result in results {
        for (class, value) in result["classes"].as_object().into_iter().flatten() {
            let points = value["curve_ms"].as_array().into_iter().flatten();
            let points = points.filter_map(|point| Some((nines(point[0].as_f64()?), point[1].as_f64()?.max(1e-3).log10())));
            lines.push((format!("{} {}", text(&result["label"]), class.trim_end_matches(" 200")), points.collect()));
        }
    }
    let values = || lines.iter().flat_map(|(_, points)| points.iter());
    let most_nines = values().map(|point| point.0).fold(1.0, f64::max);
    let low = values().map(|point| point.1).fold(f64::INFINITY, f64::min).floor();
    let high = values().map(|point| point.1).fold(f64::NEG_INFINITY, f64::max).ceil().max(low + 1.0);
    let x = |nines: f64| LEFT + nines / most_nines * (WIDTH - LEFT - RIGHT);
    let y = |log: f64| HEIGHT - BOTTOM - (log - low) / (high - low) * (HEIGHT - BOTTOM - TOP);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    // Writing to a string does not fail.
    let mut mark = 0.0;
    while mark <= most_nines {
        let name = match mark as u32 {
            0 => "0",
            1 => "90",
            2 => "99",
            3 => "99.9",
            _ => "99.99",
        };
        let _ = writeln!(
            svg,
            "<path d=\"M{0:.1} {TOP}V{1:.1}\" stroke=\"#ddd\"/><text x=\"{0:.1}\" y=\"{2:.1}\" text-anchor=\"middle\">{name} %</text>",
            x(mark),
            HEIGHT - BOTTOM,
            HEIGHT - BOTTOM + 18.0
        );
        mark += 1.0;
    }
    let mut decade = low;
    while decade.is_finite() && decade <= high {
        let _ = writeln!(
            svg,
            "<path d=\"M{LEFT} {0:.1}H{1:.1}\" stroke=\"#ddd\"/><text x=\"{2:.1}\" y=\"{3:.1}\" text-anchor=\"end\">{4} ms</text>",
            y(decade),
            WIDTH - RIGHT,
            LEFT - 6.0,
            y(decade) + 4.0,
            10f64.powf(decade)
        );
        decade += 1.0;
    }
    for (index, (name, points)) in lines.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let path: Vec<String> = points.iter().map(|point| format!("{:.1} {:.1}", x(point.0), y(point.1))).collect();
        let name = name.replace('&', "&amp;").replace('<', "&lt;");
        let at = TOP + 16.0 * (index as f64 + 1.0);
        let _ = writeln!(svg, "<path d=\"M{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>", path.join("L"));
        let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"{at:.1}\" fill=\"{colour}\">{name}</text>", WIDTH - RIGHT + 10.0);
    }
    svg.push_str("</svg>\n");
    svg
}

/// 90 % is one, 99 % two.
fn nines(percent: f64) -> f64 {
    -(1.0 - percent / 100.0).max(1e-6).log10()
}
