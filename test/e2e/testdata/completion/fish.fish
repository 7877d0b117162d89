# As bash.sh, for fish.
for script in $argv
    source $script
end
while read -l line
    complete -C $line | string split -f 1 \t
    echo
end
