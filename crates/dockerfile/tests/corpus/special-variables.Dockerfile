FROM base
ENV A=$$ B=$1 C=$ D="$" E=a$ F=$@x G=${A}$
