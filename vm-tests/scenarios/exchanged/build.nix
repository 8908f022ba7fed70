# What is made above: it needs an object that the next image lacks, and one that is another one in it.
{ gone, changed, name ? "upper-needs" }:
derivation {
  inherit name;
  system = builtins.currentSystem;
  builder = "/bin/sh";
  args = [
    "-euc"
    ''
      PATH=/usr/bin:/bin
      mkdir $out
      cat $gone/words $changed/words >$out/words
      echo $gone $changed >$out/needs
    ''
  ];
  gone = builtins.storePath gone;
  changed = builtins.storePath changed;
}
