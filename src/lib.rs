//! Sets up, checks and looks after Nix's local-overlay stores.
