
# Names that are on the machine at that moment are asked for.
function __fish_overstore_store_of_warm
    set -l words (commandline -opc)
    for word in $words[3..]
        string match -q -- '-*' $word
        or begin
            echo $word
            return 0
        end
    end
    return 1
end
for command in @COMMANDS@
    test $command = warm
    and continue
    complete -c overstore -n "__fish_overstore_using_subcommand $command" -a "(overstore list --names 2>/dev/null)" -d Store
end
complete -c overstore -n "__fish_overstore_using_subcommand publish" -a "(overstore list --names --publications 2>/dev/null)" -d Publication
complete -c overstore -n "__fish_overstore_using_subcommand warm; and not __fish_overstore_store_of_warm >/dev/null" -a "(overstore list --names 2>/dev/null)" -d Store
complete -c overstore -n "__fish_overstore_using_subcommand warm; and __fish_overstore_store_of_warm >/dev/null" -a "(overstore list --names --below (__fish_overstore_store_of_warm) 2>/dev/null)" -d 'Path of the lower store'
