//! Samples, medians and ratios; the table, the JSON and the plot.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Whose figures the others are compared with.
const OWN: &str = "cais";
const COLUMNS: [&str; 5] = [OWN, "docker", "podman", "crun", "runc"];
const COLOURS: [&str; 5] = ["#0b7285", "#adb5bd", "#ced4da", "#868e96", "#495057"];
const BAR_HEIGHT: usize = 14;
const LABEL_WIDTH: usize = 330;
const PLOT_WIDTH: usize = 520;

/// What a row counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Wall time.
    Milliseconds,
    /// Memory, in units of a million bytes.
    Megabytes,
}

impl Unit {
    const fn short(self) -> &'static str {
        match self {
            Self::Milliseconds => "ms",
            Self::Megabytes => "MB",
        }
    }
}

/// One thing measured, for every peer that can do it.
#[derive(Clone, Debug)]
pub struct Row {
    name: String,
    unit: Unit,
    samples: BTreeMap<&'static str, Vec<f64>>,
    unable: Vec<&'static str>,
}

impl Row {
    /// An empty row.
    pub fn new(name: &str, unit: Unit) -> Self {
        Self { name: name.to_owned(), unit, samples: BTreeMap::new(), unable: Vec::new() }
    }

    /// What is measured.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Adds a sample.
    pub fn sample(&mut self, peer: &'static str, value: f64) {
        self.samples.entry(peer).or_default().push(value);
    }

    /// Notes that a peer cannot do this here.
    pub fn cannot(&mut self, peer: &'static str) {
        self.unable.push(peer);
    }

    /// Whether it can.
    pub fn can(&self, peer: &str) -> bool {
        !self.unable.contains(&peer)
    }

    fn median(&self, peer: &str) -> Option<f64> {
        let mut sorted = self.samples.get(peer).filter(|samples| !samples.is_empty())?.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        Some(if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) })
    }

    fn ratio(&self, peer: &str) -> Option<f64> {
        Some(self.median(OWN)? / self.median(peer)?)
    }
}

/// All rows of a run.
#[derive(Clone, Debug)]
pub struct Report {
    versions: Vec<String>,
    rows: Vec<Row>,
}

impl Report {
    /// A report on peers of these versions.
    pub fn new(versions: Vec<String>) -> Self {
        Self { versions, rows: Vec::new() }
    }

    /// Adds a row.
    pub fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// Prints the medians, and in parentheses what part of the peer's figure ours is.
    pub fn print(&self) {
        println!("\n{}; medians, in parentheses cais ÷ peer", self.versions.join("; "));
        let columns = self.columns();
        let head: Vec<_> = columns.iter().map(|peer| format!("{peer:>18}")).collect();
        println!("{:44}{}", "", head.join(""));
        for row in &self.rows {
            let cells = columns.iter().map(|peer| match (row.median(peer), row.ratio(peer)) {
                (Some(median), _) if *peer == OWN => format!("{:>18}", number(median, row.unit)),
                (Some(median), Some(ratio)) => format!("{:>18}", format!("{} ({ratio:.3})", number(median, row.unit))),
                (Some(median), None) => format!("{:>18}", number(median, row.unit)),
                (None, _) => format!("{:>18}", "–"),
            });
            println!("{:44}{}", row.name, cells.collect::<String>());
        }
    }

    /// Writes `bench.json` with every sample, and `bench.svg`.
    pub fn write(&self, dir: &Path) -> Result<()> {
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        fs::write(dir.join("bench.json"), serde_json::to_vec_pretty(&self.json())?)?;
        fs::write(dir.join("bench.svg"), self.svg())?;
        println!("\nsamples: {0}/bench.json, plot: {0}/bench.svg", dir.display());
        Ok(())
    }

    fn columns(&self) -> Vec<&'static str> {
        COLUMNS.into_iter().filter(|peer| self.rows.iter().any(|row| row.samples.contains_key(peer))).collect()
    }

    fn json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            let medians: BTreeMap<_, _> = row.samples.keys().map(|peer| (*peer, row.median(peer))).collect();
            let ratios: BTreeMap<_, _> = row.samples.keys().filter(|peer| **peer != OWN).map(|peer| (*peer, row.ratio(peer))).collect();
            json!({"name": row.name, "unit": row.unit.short(), "samples": row.samples, "medians": medians, "ratios": ratios})
        });
        let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
        let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
        json!({"versions": self.versions, "kernel": kernel, "cores": cores, "rows": rows.collect::<Vec<_>>()})
    }

    /// A group of bars per row, each row on a scale of its own: ratios are what counts.
    fn svg(&self) -> String {
        let columns = self.columns();
        let mut body = String::new();
        let mut y = 30;
        for row in &self.rows {
            let present: Vec<_> = columns.iter().filter_map(|peer| row.median(peer).map(|median| (*peer, median))).collect();
            let top = present.iter().map(|(_, median)| *median).fold(f64::MIN_POSITIVE, f64::max);
            let middle = y + BAR_HEIGHT * present.len().max(1) / 2;
            body += &format!("<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{}</text>\n", LABEL_WIDTH - 10, escape(&row.name));
            for (peer, median) in present {
                let colour = COLUMNS.iter().position(|name| *name == peer).map_or("#000", |at| COLOURS[at]);
                let width = (median / top * f64::from(u32::try_from(PLOT_WIDTH).unwrap_or(0))).max(1.0);
                let text = y + BAR_HEIGHT - 3;
                body += &format!(
                    "<rect x=\"{LABEL_WIDTH}\" y=\"{y}\" width=\"{width:.1}\" height=\"{}\" fill=\"{colour}\"/>\n",
                    BAR_HEIGHT - 2
                );
                let at = f64::from(u32::try_from(LABEL_WIDTH).unwrap_or(0)) + width + 6.0;
                body += &format!("<text x=\"{at:.1}\" y=\"{text}\">{peer} {}</text>\n", number(median, row.unit));
                y += BAR_HEIGHT;
            }
            y += BAR_HEIGHT;
        }
        let width = LABEL_WIDTH + PLOT_WIDTH + 160;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{y}\" font-family=\"sans-serif\" font-size=\"11\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n<text x=\"10\" y=\"18\">{}; medians, shorter is better</text>\n{body}</svg>\n",
            escape(&self.versions.join("; "))
        )
    }
}

fn number(value: f64, unit: Unit) -> String {
    let digits = if value >= 100.0 { 0 } else { usize::from(value < 10.0) + 1 };
    format!("{value:.digits$} {}", unit.short())
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn medians_and_ratios() {
        let mut row = Row::new("x", Unit::Milliseconds);
        [3.0, 1.0, 2.0].into_iter().for_each(|value| row.sample(OWN, value));
        [10.0, 30.0].into_iter().for_each(|value| row.sample("docker", value));
        assert_eq!((row.median(OWN), row.ratio("docker"), row.ratio("podman")), (Some(2.0), Some(0.1), None));
    }

    #[test]
    fn the_plot_is_whole() {
        let mut report = Report::new(vec!["cais 1 <x>".to_owned()]);
        let mut row = Row::new("a & b", Unit::Megabytes);
        row.sample(OWN, 1.5);
        report.add(row);
        let svg = report.svg();
        assert!(svg.contains("a &amp; b") && svg.contains("&lt;x&gt;") && svg.ends_with("</svg>\n"));
    }
}
