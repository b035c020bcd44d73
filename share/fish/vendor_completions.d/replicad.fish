function _replicad_completion
    set -l response (COMP_WORDS=(commandline -cp | string collect) COMP_CWORD=(commandline -t | string collect) \
        _REPLICAD_COMPLETE=fish_complete replicad 2>/dev/null)
    for line in $response
        # At the first comma only: a name may hold more of them.
        set -l found (string split --max 1 , -- $line)
        switch $found[1]
            case dir
                __fish_complete_directories $found[2]
            case file
                __fish_complete_path $found[2]
            case plain
                echo $found[2]
        end
    end
end

complete --no-files --command replicad --arguments "(_replicad_completion)"
