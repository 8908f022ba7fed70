# Compares the options of stubs.nix with those that they stand for: for each, by its name, the type,
# what definitions become, and the default, there (`stub`) and here (`real`).
{ lib }:
{ stubs, real }:
let
  # What a value is, as far as it can be seen; `refused` for what is no value of the option.
  seen =
    value:
    let
      shown = builtins.toJSON (plain value);
      tried = builtins.tryEval (builtins.deepSeq shown shown);
    in
    if tried.success then tried.value else "refused";
  plain =
    value:
    if lib.isFunction value then
      "a function"
    else if lib.isDerivation value then
      "a package"
    else if lib.isAttrs value then
      lib.mapAttrs (_: plain) value
    else if lib.isList value then
      map plain value
    else if lib.isPath value then
      toString value
    else
      value;

  # Definitions, of which the first counts alone, too.
  samples = [
    [ true false ]
    [ true true ]
    [ "text" "other" ]
    [ "text" "text" ]
    [ "/text" "/text" ]
    [ 4 5 ]
    [ 4 4 ]
    [ [ "one" ] [ "two" ] ]
    [ [ "one" ] "two" ]
    [ "one" [ "two" ] ]
    [ [ ] [ "one" ] ]
    [ null null ]
    [ { } { } ]
    [ (lib.mkForce [ "one" ]) [ "two" ] ]
    [ (lib.mkDefault "one") "two" ]
    [ (lib.mkBefore [ "one" ]) [ "two" ] ]
    [ { a = "one"; } { b = "two"; } ]
    [ { a = [ "one" ]; } { a = [ "two" ]; } ]
    [ { a = "one"; } { a = "two"; } ]
  ];
  merged =
    option: definitions:
    let
      it = lib.mergeDefinitions [ "option" ] option.type (
        map (value: {
          file = "test";
          inherit value;
        }) definitions
      );
    in
    seen it.mergedValue;

  # Types that hold options of their own are compared by these.
  hasOptions = option: option.type.getSubOptions [ ] != { };
  described = option: {
    type = option.type.description;
    merges = lib.optionals (!hasOptions option) (
      lib.concatMap (definitions: [
        (merged option [ (lib.head definitions) ])
        (merged option definitions)
      ]) samples
    );
    default = if option ? default then seen option.default else "none";
  };
  compare =
    stubs: real: path:
    lib.concatLists (
      lib.mapAttrsToList (
        name: stub:
        let
          here = path ++ [ name ];
          there = real.${name} or null;
        in
        if lib.hasPrefix "_" name then
          [ ]
        else if !(lib.isOption stub) then
          compare stub (if there == null then { } else there) here
        else
          [
            {
              name = lib.concatStringsSep "." here;
              value = {
                stub = described stub;
                real = if there == null then null else described there;
              };
            }
          ]
          ++ lib.optionals (hasOptions stub && there != null) (
            compare (stub.type.getSubOptions [ ]) (there.type.getSubOptions [ ]) (here ++ [ "*" ])
          )
      ) stubs
    );
in
lib.listToAttrs (compare stubs real [ ])
