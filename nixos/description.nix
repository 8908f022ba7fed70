# The file of a description: what is given of its settings. In a directory of its own, because a file's
# name is its store's, or its publication's.
{ lib, pkgs }:
name: settings:
let
  format = pkgs.formats.toml { };
  given =
    attributes:
    lib.filterAttrs (_: value: value != null && value != { }) (
      lib.mapAttrs (_: value: if lib.isAttrs value then given value else value) attributes
    );
  file = "${name}.toml";
  directory = pkgs.linkFarm "overstore-${name}" {
    ${file} = format.generate file (given settings);
  };
in
"${directory}/${file}"
