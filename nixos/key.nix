# A key of a description, as an option: its type, its default in words, and what it is. What is not
# given is not in the file.
{ lib }:
type: default: description:
lib.mkOption {
  type = lib.types.nullOr type;
  default = null;
  defaultText = lib.literalMD default;
  inherit description;
}
