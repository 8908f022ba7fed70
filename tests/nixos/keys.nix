# The keys that a file of nixos/ has as options, with their types in words. Needs no `lib`:
# of the few functions that declare options, only what is said with them counts.
{
  file ? "settings.nix",
}:
let
  words = builtins.concatStringsSep " or ";
  lib = {
    literalMD = text: text;
    mkOption = declaration: { inherit (declaration) type description; };
    types = {
      str = "string";
      bool = "boolean";
      int = "integer";
      nullOr = type: type;
      either = a: b: words [ a b ];
      oneOf = words;
      enum = values: words (map builtins.toJSON values);
      listOf = type: "array of ${type}";
      attrsOf = type: "object of ${type}";
    };
  };
  keys =
    prefix: settings:
    builtins.concatMap (
      name:
      let
        value = settings.${name};
        key = prefix + name;
      in
      if value ? type then
        assert value.description != "";
        [
          {
            name = key;
            value = value.type;
          }
        ]
      else
        keys "${key}." value
    ) (builtins.attrNames settings);
in
builtins.listToAttrs (keys "" (import (../../nixos + "/${file}") { inherit lib; }))
