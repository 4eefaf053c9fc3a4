// Compiles the dashboards that are named as arguments as constants of Grafana's schema types, each
// panel with the options of its kind; prints what the compiler finds and ends with 1 where it does.
import { readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';

const here = fileURLToPath(new URL('.', import.meta.url));
const OPTIONS = {
  bargauge: 'BarGauge',
  gauge: 'Gauge',
  heatmap: 'Heatmap',
  stat: 'Stat',
  'state-timeline': 'StateTimeline',
  table: 'Table',
  text: 'Text',
  timeseries: 'TimeSeries',
};
const FIELDS = ['heatmap', 'state-timeline', 'table', 'timeseries'];
// These have no types in the schema.
const WITHOUT_OPTIONS = ['alertlist', 'row'];

const HEADER = [
  "import type { Dashboard } from '@grafana/schema';",
  ...Object.entries(OPTIONS).map(([kind, name]) => {
    const folder = kind.replace('-', '');
    return `import type * as ${name} from '@grafana/schema/dist/types/raw/composable/${folder}/panelcfg/x/${name}PanelCfg_types.gen.d.ts';`;
  }),
  // JSON has the values of enumerations, not their names.
  'type Plain<T> = unknown extends T ? T : T extends string ? `${T}` : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;',
  // A panel need not have all options of its kind: Grafana fills in the others.
  'type Some<T> = unknown extends T ? T : T extends (infer E)[] ? Some<E>[] : T extends object ? { [K in keyof T]?: Some<T[K]> } : T;',
];

function source(paths) {
  const lines = [...HEADER];
  for (const path of paths) {
    const dashboard = JSON.parse(readFileSync(path, 'utf8'));
    const name = basename(path, '.json');
    const constant = (what, type, value) => {
      const identifier = `${name} ${what}`.replace(/\W+/g, '_');
      lines.push(`export const ${identifier}: Plain<${type}> = ${JSON.stringify(value)};`);
    };
    constant('dashboard', 'Dashboard', dashboard);
    for (const panel of dashboard.panels) {
      if (WITHOUT_OPTIONS.includes(panel.type)) continue;
      const kind = OPTIONS[panel.type];
      if (kind === undefined) throw new Error(`${name}: no types for panels of kind ${panel.type}`);
      const what = `panel ${panel.id} ${panel.title}`;
      constant(`${what} options`, `Some<${kind}.Options>`, panel.options);
      if (FIELDS.includes(panel.type)) {
        const { custom } = panel.fieldConfig.defaults;
        constant(`${what} custom`, `Some<${kind}.FieldConfig>`, custom);
      }
    }
  }
  return lines.join('\n');
}

const file = join(here, 'dashboards.ts');
const text = source(process.argv.slice(2));
const options = {
  strict: true,
  noEmit: true,
  skipLibCheck: true,
  module: ts.ModuleKind.ESNext,
  moduleResolution: ts.ModuleResolutionKind.Bundler,
  target: ts.ScriptTarget.ES2022,
  types: [],
};
const host = ts.createCompilerHost(options);
const { getSourceFile, fileExists, readFile } = host;
host.fileExists = (path) => path === file || fileExists.call(host, path);
host.readFile = (path) => (path === file ? text : readFile.call(host, path));
host.getSourceFile = (path, ...others) =>
  path === file
    ? ts.createSourceFile(path, text, ts.ScriptTarget.ES2022)
    : getSourceFile.call(host, path, ...others);

const found = ts.getPreEmitDiagnostics(ts.createProgram([file], options, host));
for (const each of found) {
  const line = each.file?.text.split('\n')[each.file.getLineAndCharacterOfPosition(each.start).line];
  const where = line?.match(/^export const (\w+)/)?.[1] ?? each.file?.fileName ?? '';
  console.log(`${where}: ${ts.flattenDiagnosticMessageText(each.messageText, ' ')}`);
}
process.exit(found.length ? 1 : 0);
