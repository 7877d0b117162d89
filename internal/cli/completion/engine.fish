
# NAME_at PATH: whether the commands that have been typed are those of PATH.
function NAME_at
    set -l path ''
    for word in (commandline -opc)[2..-1]
        if contains -- "$path/$word" COMMANDS
            set path "$path/$word"
        end
    end
    test "$path" = "$argv[1]"
end

# NAME_arg: prints the argument that is being typed, without an option before "=".
function NAME_arg
    commandline -ct | string replace -r '^--?[A-Za-z0-9-]+=' ''
end

# NAME_paths KIND PREFIX VALUE: prints the files that VALUE may become.
function NAME_paths
    set -l paths
    if test $argv[1] = dir
        set paths (__fish_complete_directories $argv[3])
    else
        set paths (__fish_complete_path $argv[3])
    end
    for p in $paths
        printf '%s%s\n' $argv[2] (string split \t -- $p)[1]
    end
end

# NAME_profiles: prints the names of the profiles that are installed.
function NAME_profiles
    set -l config $XDG_CONFIG_HOME
    test -n "$config"; or set config $HOME/.config
    for dir in $config/swtpm PROFILEDIRS
        for file in $dir/*PROFILESUFFIX
            string replace -r '^.*/' '' -- (string replace -r 'PROFILEPATTERN$' '' -- $file)
        end
    end
end

# NAME_list KEY: completes KEY's list of names and values.
function NAME_list
    set -l token (NAME_arg)
    set -l head (string match -r '^.*,' -- $token)
    set -l item (string replace -r '^.*,' '' -- $token)
    if string match -q '*=*' -- $item
        set -l name (string split -m 1 = -- $item)[1]
        set -l kind (NAME_value $argv[1]/$name)
        switch "$kind[1]"
            case words
                printf "$head$name=%s\n" $kind[2..-1]
            case file dir
                NAME_paths $kind[1] "$head$name=" (string split -m 1 = -- $item)[2]
        end
        return
    end
    for name in (NAME_names $argv[1])
        string match -rq -- ','(string replace = '' -- $name)'[,=]' ",$head"
        or printf '%s%s\n' "$head" $name
    end
end

complete -c PROGRAM -f
