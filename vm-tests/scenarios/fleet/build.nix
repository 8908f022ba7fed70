# What is built without a pause: it refers to an object of the lower store.
{ name, lowerApp }:
derivation {
  inherit name;
  system = builtins.currentSystem;
  builder = "/bin/sh";
  args = [ "-euc" "PATH=/usr/bin:/bin; mkdir $out; echo $app >$out/app; $app/bin/lower-app >$out/words" ];
  app = builtins.storePath lowerApp;
}
