# A system that publishes two stores: one of its own, on schedule, and the system's.
{
  services.overstore.publications = {
    main.settings = {
      root = "/srv/store";
      publication = "/srv/publications/main";
      schedule = "daily";
      keep = {
        generations = 3;
        grace = "7d";
      };
    };
    system.settings = {
      publication = "/srv/publications/system";
      include.roots = [ "/nix/var/nix/gcroots/published" ];
    };
  };
}
