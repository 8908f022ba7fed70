//! What `status` tells of stores, as Prometheus's text format, version 0.0.4: for node_exporter's textfile
//! collector. Source: "Exposition formats" and "Metric and label naming" in Prometheus's documentation.

use std::io::{self, Write};

use serde_json::Value;

use super::list::OfStore;

/// Metrics with one sample a store: the name after `overstore_`, what it says, and where the number is
/// in the result of `status`.
const NUMBERS: &[(&str, &str, &str)] = &[
    (
        "status_timestamp_seconds",
        "When status looked at the store.",
        "/time",
    ),
    (
        "mounted",
        "Whether the overlay is in effect (1) or not (0).",
        "/mounted",
    ),
    (
        "mounted_timestamp_seconds",
        "When up mounted it.",
        "/mounted-since",
    ),
    (
        "lower_changed",
        "Whether the lower store is another one than when the upper database was made.",
        "/lower-changed",
    ),
    (
        "objects",
        "Store objects in the upper layer.",
        "/content/objects",
    ),
    (
        "objects_in_both_layers",
        "Objects in the upper layer that the lower store has too.",
        "/content/objects-in-both-layers",
    ),
    (
        "rows_of_its_own",
        "Rows of the upper database whose object is in the upper layer.",
        "/content/own-rows",
    ),
    (
        "rows_copied",
        "Rows of the upper database copied from the lower store.",
        "/content/copied-rows",
    ),
    (
        "rows_without_object",
        "Rows of the upper database whose object is in neither layer.",
        "/content/rows-without-object",
    ),
    (
        "upper_layer_bytes",
        "How much space the objects in the upper layer take (only with --sizes).",
        "/sizes/upper-layer",
    ),
    (
        "in_both_layers_bytes",
        "How much removing the objects that the lower store has too would free (only with --sizes).",
        "/sizes/in-both-layers",
    ),
    (
        "file_system_free_bytes",
        "How much is free for ordinary users on the upper layer's file system.",
        "/file-system/free",
    ),
    (
        "file_system_size_bytes",
        "The size of the upper layer's file system.",
        "/file-system/size",
    ),
    (
        "generation",
        "The generation of a publication that the store uses.",
        "/generation/number",
    ),
    (
        "generation_current",
        "The publication's current generation.",
        "/generation/current",
    ),
    (
        "generation_timestamp_seconds",
        "When the generation in use was made.",
        "/generation/time",
    ),
    (
        "generation_retired_until_timestamp_seconds",
        "Until when the generation in use stays, if it is retired.",
        "/generation/retired-until",
    ),
    (
        "refresh_timestamp_seconds",
        "When the store last moved on to another generation.",
        "/refreshed/time",
    ),
    (
        "collection_timestamp_seconds",
        "When garbage was last collected.",
        "/collected/time",
    ),
    (
        "collection_objects",
        "How many objects the last collection deleted.",
        "/collected/objects",
    ),
    (
        "collection_bytes",
        "How much the last collection freed.",
        "/collected/bytes",
    ),
    (
        "collection_left_objects",
        "How many objects the last collection left although nothing needs them.",
        "/collected/left",
    ),
    (
        "warm_timestamp_seconds",
        "When metadata was last copied from the lower store.",
        "/warmed/time",
    ),
    (
        "warm_paths",
        "How many of the paths asked for had metadata after that copy.",
        "/warmed/paths",
    ),
    (
        "warm_gone_paths",
        "How many of those paths have lost their metadata since.",
        "/warmed/gone",
    ),
];

/// Writes the metrics of these stores.
///
/// # Errors
/// When `out` cannot be written to.
pub(crate) fn write(out: &mut dyn Write, stores: &[OfStore]) -> io::Result<()> {
    let samples = |of: &dyn Fn(&OfStore) -> Vec<(String, f64)>| -> Vec<(String, f64)> {
        stores.iter().flat_map(of).collect()
    };
    let help = "Whether status could look at the store (1) or not (0).";
    let told = samples(&|it| vec![(label("store", &it.store), f64::from(it.exit_code == 0))]);
    family(out, "status_success", help, &told)?;
    for severity in ["error", "warning"] {
        let codes = format!("/now/{severity}s");
        let found = samples(&|it| {
            let codes = it.result.pointer(&codes).and_then(Value::as_array);
            let count = codes.map(|codes| (label("store", &it.store), codes.len() as f64));
            count.into_iter().collect()
        });
        let help = format!("How many different findings of severity {severity} there are.");
        family(out, &format!("{severity}s"), &help, &found)?;
    }
    let help = "1 for each current finding, by its code.";
    family(out, "finding", help, &samples(&findings))?;
    for (name, help, pointer) in NUMBERS {
        let found = samples(&|it| {
            let value = it.result.pointer(pointer).and_then(number);
            value
                .map(|value| (label("store", &it.store), value))
                .into_iter()
                .collect()
        });
        family(out, name, help, &found)?;
    }
    Ok(())
}

/// A metric with all its samples; nothing where there are none.
fn family(
    out: &mut dyn Write,
    name: &str,
    help: &str,
    samples: &[(String, f64)],
) -> io::Result<()> {
    if samples.is_empty() {
        return Ok(());
    }
    writeln!(out, "# HELP overstore_{name} {help}")?;
    writeln!(out, "# TYPE overstore_{name} gauge")?;
    for (labels, value) in samples {
        writeln!(out, "overstore_{name}{{{labels}}} {value}")?;
    }
    Ok(())
}

fn findings(store: &OfStore) -> Vec<(String, f64)> {
    let mut samples = Vec::new();
    for severity in ["error", "warning"] {
        let codes = store.result.pointer(&format!("/now/{severity}s"));
        for code in codes.and_then(Value::as_array).into_iter().flatten() {
            let labels = [
                label("store", &store.store),
                label("severity", severity),
                label("code", code.as_str().unwrap_or_default()),
            ];
            samples.push((labels.join(","), 1.0));
        }
    }
    samples
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Bool(value) => Some(f64::from(*value)),
        value => value.as_f64(),
    }
}

fn label(name: &str, value: &str) -> String {
    let mut escaped = String::new();
    for c in value.chars() {
        match c {
            '\\' => escaped += "\\\\",
            '"' => escaped += "\\\"",
            '\n' => escaped += "\\n",
            c => escaped.push(c),
        }
    }
    format!("{name}=\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn stores_become_samples() {
        let stores = [
            OfStore {
                store: "a\\x \"b\"".to_owned(),
                exit_code: 0,
                result: json!({
                    "mounted": true,
                    "collected": null,
                    "content": { "objects": 1_700_000_001_u64 },
                    "now": { "errors": ["mount-missing"], "warnings": [] },
                }),
            },
            OfStore {
                store: "wrong".to_owned(),
                exit_code: 2,
                result: Value::Null,
            },
        ];
        let mut text = Vec::new();
        write(&mut text, &stores).unwrap();
        let expected = r#"# HELP overstore_status_success Whether status could look at the store (1) or not (0).
# TYPE overstore_status_success gauge
overstore_status_success{store="a\\x \"b\""} 1
overstore_status_success{store="wrong"} 0
# HELP overstore_errors How many different findings of severity error there are.
# TYPE overstore_errors gauge
overstore_errors{store="a\\x \"b\""} 1
# HELP overstore_warnings How many different findings of severity warning there are.
# TYPE overstore_warnings gauge
overstore_warnings{store="a\\x \"b\""} 0
# HELP overstore_finding 1 for each current finding, by its code.
# TYPE overstore_finding gauge
overstore_finding{store="a\\x \"b\"",severity="error",code="mount-missing"} 1
# HELP overstore_mounted Whether the overlay is in effect (1) or not (0).
# TYPE overstore_mounted gauge
overstore_mounted{store="a\\x \"b\""} 1
# HELP overstore_objects Store objects in the upper layer.
# TYPE overstore_objects gauge
overstore_objects{store="a\\x \"b\""} 1700000001
"#;
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    }
}
