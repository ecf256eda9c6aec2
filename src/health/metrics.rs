//! The counters as OpenMetrics text, for Prometheus, and as the older text for clients that do not ask for
//! that, `promtool` and `curl` among them.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::progress::{BOUNDS_SECONDS, Measured, Phase, Times};

/// The types of both texts.
const OPEN: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const OLDER: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Its type and the text, for a client that accepts these types; `app_ready` once there is an app to ask.
pub(crate) fn text(measured: Measured, app_ready: Option<bool>, accepts: &str) -> (&'static str, String) {
    let mut registry = Registry::with_prefix("volseed");
    registry.register_collector(Box::new(Metrics(measured, app_ready)));
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
    if accepts.contains("application/openmetrics-text") { (OPEN, text) } else { (OLDER, older(&text)) }
}

/// The older text calls a family of counters what its samples are called, and has no end mark.
fn older(text: &str) -> String {
    let counters: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let mut older = String::with_capacity(text.len() + counters.len() * 16);
    for line in text.lines().filter(|line| *line != "# EOF") {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(what), Some(name), Some(rest)) if counters.contains(&name) => {
                older.push_str(&format!("# {what} {name}_total {rest}"));
            }
            _ => older.push_str(line),
        }
        older.push('\n');
    }
    older
}

#[derive(Debug)]
struct Metrics(Measured, Option<bool>);

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Measured { snapshot, phases, operations, takeovers, errors } = &self.0;
        let mut one = |name: &str, help: &str, value: Value| -> fmt::Result {
            value.encode(encoder.encode_descriptor(name, help, None, value.metric_type())?)
        };
        one("seeded_files", "Files that are finished", Value::Counter(snapshot.counts.files))?;
        one("seeded_bytes", "Bytes of file data that are written", Value::Counter(snapshot.counts.bytes))?;
        if let (Some(files), Some(bytes)) = (snapshot.counts.files_total, snapshot.counts.bytes_total) {
            one("seed_files", "Files in the seed", Value::Gauge(files))?;
            one("seed_size_bytes", "Bytes of file data in the seed", Value::Gauge(bytes))?;
        }
        one("writers", "Writers at work", Value::Gauge(snapshot.writers.into()))?;
        one("stall_seconds", "Seconds since anything last moved", Value::Gauge(snapshot.stall_seconds))?;
        one("takeovers", "Claims that were taken over from other replicas", Value::Counter(*takeovers))?;
        one("errors", "Errors that ended the work", Value::Counter(*errors))?;
        if let Some(ready) = self.1 {
            one("app_ready", "Whether the app passes its check", Value::Gauge(ready.into()))?;
        }
        let mut now = encoder.encode_descriptor(
            "phase",
            "1 for the phase that the work is in",
            None,
            MetricType::Gauge,
        )?;
        for (phase, _) in phases {
            let is_now = Value::Gauge((*phase == snapshot.phase).into());
            is_now.encode(now.encode_family(&[("phase", phase.name())])?)?;
        }
        let help = "Seconds spent in each phase";
        let mut seconds = encoder.encode_descriptor("phase_seconds", help, None, MetricType::Counter)?;
        for (phase, time) in phases {
            if !matches!(phase, Phase::Complete | Phase::Failed) {
                let spent = Value::Seconds(time.as_secs_f64());
                spent.encode(seconds.encode_family(&[("phase", phase.name())])?)?;
            }
        }
        encode_latency(&mut encoder, operations)?;
        let help = "The version that runs";
        let mut build = encoder.encode_descriptor("build_info", help, None, MetricType::Gauge)?;
        Value::Gauge(1).encode(build.encode_family(&[("version", env!("CARGO_PKG_VERSION"))])?)
    }
}

fn encode_latency(encoder: &mut DescriptorEncoder<'_>, operations: &[Times]) -> fmt::Result {
    let help = "Time that calls on the volume took";
    let mut latency = encoder.encode_descriptor("operation_seconds", help, None, MetricType::Histogram)?;
    for Times { operation, buckets, total } in operations {
        let bounds = BOUNDS_SECONDS.iter().copied().chain([f64::INFINITY]);
        let bounded: Vec<(f64, u64)> = bounds.zip(buckets.iter().copied()).collect();
        let (total, count) = (total.as_secs_f64(), buckets.iter().sum());
        let labels = [("operation", *operation)];
        latency.encode_family(&labels)?.encode_histogram::<NoLabelSet>(total, count, &bounded, None)?;
    }
    Ok(())
}

/// A number and what it is.
enum Value {
    Counter(u64),
    Gauge(u64),
    Seconds(f64),
}

impl Value {
    fn metric_type(&self) -> MetricType {
        match self {
            Value::Counter(_) | Value::Seconds(_) => MetricType::Counter,
            Value::Gauge(_) => MetricType::Gauge,
        }
    }

    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        match self {
            Value::Counter(count) => encoder.encode_counter::<NoLabelSet, _, u64>(count, None),
            Value::Seconds(seconds) => encoder.encode_counter::<NoLabelSet, _, u64>(seconds, None),
            Value::Gauge(value) => encoder.encode_gauge(value),
        }
    }
}
