# Settings as TOML: the strings, numbers, lists and tables of JSON, which are
# TOML's, too.
{ lib }:
settings:
let
  isTable = _: lib.isAttrs;
  line = key: value: "${builtins.toJSON key} = ${builtins.toJSON value}\n";
  lines = values: lib.concatStrings (lib.mapAttrsToList line values);
  table = key: values: "\n[${builtins.toJSON key}]\n${lines values}";
in
lines (lib.filterAttrs (name: value: !(isTable name value)) settings)
+ lib.concatStrings (lib.mapAttrsToList table (lib.filterAttrs isTable settings))
