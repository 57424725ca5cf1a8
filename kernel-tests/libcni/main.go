// Drives plugins as container runtimes do: with the reference library.
//
//	cnirun add|check|del LIST CACHE CONTAINER NETNS IFNAME [CAPABILITIES [ARGS]]
//
// Plugins are looked for in CNI_PATH. The result of add goes to standard output.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/libcni"
)

func run(args []string) error {
	list, err := libcni.ConfListFromFile(args[1])
	if err != nil {
		return err
	}
	runtime := &libcni.RuntimeConf{ContainerID: args[3], NetNS: args[4], IfName: args[5]}
	if len(args) > 6 && args[6] != "" {
		if err := json.Unmarshal([]byte(args[6]), &runtime.CapabilityArgs); err != nil {
			return err
		}
	}
	if len(args) > 7 {
		for _, pair := range strings.Split(args[7], ";") {
			key, value, _ := strings.Cut(pair, "=")
			runtime.Args = append(runtime.Args, [2]string{key, value})
		}
	}
	path := filepath.SplitList(os.Getenv("CNI_PATH"))
	cni := libcni.NewCNIConfigWithCacheDir(path, args[2], nil)
	ctx := context.Background()
	switch args[0] {
	case "add":
		result, err := cni.AddNetworkList(ctx, list, runtime)
		if err != nil {
			return err
		}
		return result.Print()
	case "check":
		return cni.CheckNetworkList(ctx, list, runtime)
	case "del":
		return cni.DelNetworkList(ctx, list, runtime)
	}
	return fmt.Errorf("unknown command %q", args[0])
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
