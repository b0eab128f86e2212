//! Figures of all runs, and their medians.

use std::collections::BTreeMap;

/// Figures by what was measured and with what.
#[derive(Debug, Default)]
pub struct Results {
    figures: BTreeMap<(String, String), Vec<f64>>,
    /// What was measured, in the order in which it was measured first.
    order: Vec<String>,
}

impl Results {
    /// Adds the figure of one run.
    pub fn add(&mut self, what: &str, with: &str, value: f64) {
        eprintln!("{what}, {with}: {value:.3}");
        if !self.order.iter().any(|known| known == what) {
            self.order.push(what.into());
        }
        self.figures.entry((what.into(), with.into())).or_default().push(value);
    }

    /// The median of all runs.
    pub fn median(&self, what: &str, with: &str) -> Option<f64> {
        let mut values = self.figures.get(&(what.to_owned(), with.to_owned()))?.clone();
        values.sort_by(f64::total_cmp);
        Some(values[values.len() / 2])
    }

    /// What was measured with this, in order.
    pub fn measured_with(&self, with: &str) -> Vec<&str> {
        let has = |what: &&String| self.figures.contains_key(&((*what).clone(), with.to_owned()));
        self.order.iter().filter(has).map(String::as_str).collect()
    }
}

/// A time.
pub fn seconds(value: Option<f64>) -> String {
    match value {
        None => "-".into(),
        Some(value) if value < 1.0 => format!("{:.0} ms", value * 1000.0),
        Some(value) => format!("{value:.2} s"),
    }
}

/// An amount.
pub fn mebibytes(value: Option<f64>) -> String {
    value.map_or("-".into(), |bytes| format!("{:.1} MiB", bytes / f64::from(1 << 20)))
}

/// One figure by another.
pub fn ratio(one: Option<f64>, other: Option<f64>) -> String {
    match (one, other) {
        (Some(one), Some(other)) => format!("{:.2}", one / other),
        _ => "-".into(),
    }
}
